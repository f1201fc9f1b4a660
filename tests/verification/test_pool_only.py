"""A ``pool_only`` network strides in its first convolution: it promises even shifts, and is verified on those."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from aps_deploy.export import export_onnx
from aps_deploy.models import ResNet
from aps_deploy.verification import ShiftSet, verify
from tests.verification.conftest import make_images, make_network

SIZE = 64


@pytest.fixture(scope="module")
def pool_only(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ResNet]:
    model = make_network("resnet18_aps3", pool_only=True)
    path = tmp_path_factory.mktemp("pool_only") / "net.onnx"
    export_onnx(model, path, image_size=SIZE)
    return path, model


@pytest.fixture(scope="module")
def wide_images() -> npt.NDArray[np.float32]:
    return make_images(2, SIZE)


@pytest.mark.parametrize(("shifts", "count", "population"), [("group", 64, 255), (6, 6, 1023)])
def test_it_passes_on_the_shifts_it_promises(
    shifts: str | int, count: int, population: int, pool_only: tuple[Path, ResNet], wide_images: npt.NDArray[np.float32]
) -> None:
    images = wide_images if count < 10 else wide_images[:1]
    certificate = verify(*pool_only, images, shifts=shifts)
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    assert certificate.counts["shifts"] == count
    assert certificate.shift_set["population"] == population
    assert certificate.shift_set["step"] == 2
    assert "multiples of 2 pixels only" in certificate.shift_set["description"]
    assert (np.array(certificate.shift_set["offsets"]) % 2 == 0).all()
    assert certificate.reference["promised"]["pool_only"] is True


def test_odd_shifts_are_not_kept_and_fail_where_they_are_asked_for(
    pool_only: tuple[Path, ResNet], wide_images: npt.NDArray[np.float32]
) -> None:
    odd = ShiftSet("sample", ((0, 1), (1, 0), (3, 5)), SIZE, SIZE, 3)
    certificate = verify(*pool_only, wide_images, shifts=odd)
    assert certificate.check("identical_shifts").status == "failed"
    assert certificate.check("identical_shifts").measured == 0
