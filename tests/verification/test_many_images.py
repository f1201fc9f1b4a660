"""The size of a real verification: all 256 packaged CIFAR-10 images under every shift of the default group."""

from __future__ import annotations

from pathlib import Path

import pytest

import aps_deploy
from aps_deploy.export import export_checkpoint
from aps_deploy.models import save_checkpoint
from aps_deploy.preprocessing import CIFAR10
from aps_deploy.verification import verify_path
from tests.verification.conftest import make_network

FOLDER = Path(aps_deploy.__file__).parent / "assets" / "cifar10" / "test"


@pytest.mark.slow
def test_256_images_under_the_whole_group(tmp_path: Path) -> None:
    names = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())
    network = make_network("resnet20_aps3", num_classes=10)
    checkpoint = save_checkpoint(tmp_path / "net.safetensors", network, preprocessing=CIFAR10, class_names=names)
    export_checkpoint(checkpoint, tmp_path / "net.onnx")
    certificate = verify_path(tmp_path / "net.onnx", checkpoint, FOLDER)
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    assert certificate.counts["images"] == 256
    assert certificate.counts["shifts"] == 15
    assert certificate.counts["pairs"] + certificate.counts["tied_pairs"] == 256 * 15
    assert certificate.counts["tied_images"] < 8
    assert certificate.check("accuracy_drop").status == "passed"
