"""Files of the custom-op form in ONNX Runtime with the project's CPU kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from aps_deploy import create_model
from aps_deploy.errors import InputError
from aps_deploy.export import export_checkpoint, export_onnx
from aps_deploy.packaged import packaged_images
from aps_deploy.plugins.cpu import library
from aps_deploy.runtimes import open_session
from aps_deploy.runtimes.onnx_properties import read_properties
from aps_deploy.verification.paths import verify_path

needs_kernels = pytest.mark.skipif(not library.is_used(), reason=f"the CPU kernels: {library.why_unavailable()}")
SIZE = 64


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return files by name: an ImageNet network in the form they take, and a small one in other forms."""
    folder = tmp_path_factory.mktemp("kernels")
    torch.manual_seed(0)
    model = create_model("resnet18_aps3", num_classes=10).eval()
    fast = export_onnx(model, folder / "custom-op.onnx", polyphase="custom-op", image_size=SIZE).path
    small = create_model("resnet20_aps3").eval()
    where = export_onnx(small, folder / "where.onnx", image_size=32).path
    half = export_onnx(small, folder / "half.onnx", polyphase="custom-op", precision="fp16", image_size=32).path
    return {"custom-op": fast, "where": where, "half": half}


@needs_kernels
def test_answers_as_the_bodies_do_and_keeps_every_bit_under_shifts(files: dict[str, Path]) -> None:
    images = np.random.default_rng(0).standard_normal((5, 3, SIZE, SIZE)).astype(np.float32)
    with (
        open_session(files["custom-op"]) as plain,
        open_session(files["custom-op"], runtime="onnxruntime-kernels") as fast,
    ):
        assert plain.providers == ("CPUExecutionProvider",)
        assert (fast.runtime, fast.device) == ("onnxruntime-kernels", "cpu")
        assert fast.providers == ("CPUExecutionProvider", library.KERNELS)
        expected, found = plain.run(images), fast.run(images)
        moved = fast.run(np.roll(images, (3, 5), (2, 3)))
        alone = fast.run(images[2:3])
    np.testing.assert_array_equal(found["polyphase_indices"], expected["polyphase_indices"])
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(moved["logits"], found["logits"])
    np.testing.assert_array_equal(alone["logits"], found["logits"][2:3])


@needs_kernels
@pytest.mark.parametrize(
    ("name", "seen"), [("where", "the file holds where in fp32"), ("half", "the file holds custom-op in fp16")]
)
def test_a_file_without_work_for_them_is_refused(files: dict[str, Path], name: str, seen: str) -> None:
    with pytest.raises(InputError, match=rf"{seen}; they take files of .* or use --runtime onnxruntime\.$"):
        open_session(files[name], runtime="onnxruntime-kernels")


def test_kernels_that_are_not_there_are_said_to_be(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_loaded", lambda: (None, "this machine has none"))
    with pytest.raises(InputError, match="the CPU kernels were asked for, and this machine has none"):
        open_session(files["custom-op"], runtime="ort-kernels")


@needs_kernels
def test_a_verification_runs_in_them(tmp_path: Path) -> None:
    path = export_checkpoint("resnet20_aps3.cifar10", tmp_path / "net.onnx", polyphase="custom-op").path
    arguments = {"runtime": "onnxruntime-kernels", "num_images": 8}
    certificate = verify_path(path, "resnet20_aps3.cifar10", packaged_images()["cifar10"], **arguments)
    assert certificate.passed
    assert certificate.environment["runtime"] == "onnxruntime-kernels"
    assert library.KERNELS in certificate.environment["providers"]


def test_properties_are_those_that_onnx_reads(files: dict[str, Path], tmp_path: Path) -> None:
    for path in files.values():
        expected = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert expected
        assert read_properties(path) == expected == read_properties(path.read_bytes())
    damaged = tmp_path / "damaged.onnx"
    before_end = read_properties(files["where"])
    content = files["where"].read_bytes()
    for number in range(0, len(content), len(content) // 50):
        damaged.write_bytes(content[:number])
        assert read_properties(damaged) in ({}, before_end)
    assert read_properties(tmp_path / "missing.onnx") == {}
    assert read_properties(b"\xff" * 100) == {}
