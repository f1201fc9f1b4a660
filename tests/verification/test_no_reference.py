"""Any ONNX classifier, without a reference: measured under shifts and in batches, and judged honestly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from aps_deploy.errors import InputError
from aps_deploy.export import export_onnx
from aps_deploy.runtimes import open_session, run_batched
from aps_deploy.verification import Certificate, certificate_table, junit_xml, report_html, verify
from aps_deploy.verification.schema import certificate_schema, first_fault
from tests.verification.conftest import IMAGE_SIZE, make_images, make_network
from tests.verification.foreign import SIDE, export_torchvision, write_average_colour

COMPARISONS = (
    *("declared_differently", "unexplained_selections", "parity_images", "parity_excess", "parity_mean_abs"),
    *("parity_cosine", "clear_top1_changes", "accuracy_drop"),
)


@pytest.fixture(scope="module")
def foreign_images() -> npt.NDArray[np.float32]:
    return make_images(6, SIDE)


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_torchvision(tmp_path_factory.mktemp("foreign") / "resnet.onnx")


def _compares_nothing(certificate: Certificate) -> None:
    for name in COMPARISONS:
        assert certificate.check(name).status == "not_applicable", name
    assert certificate.reference == {
        "kind": "none", "name": None, "sha256": None, "architecture": None, "promised": None,
        "is_named_by_file": False, "saved": None,
    }  # fmt: skip
    assert first_fault(certificate.to_dict(), certificate_schema()) is None
    assert "There is no reference" in report_html(certificate)
    assert "none" in junit_xml(certificate)
    certificate_table(certificate)


def test_a_torchvision_network_is_measured_and_fails(
    torchvision_file: Path, foreign_images: npt.NDArray[np.float32]
) -> None:
    labels = np.arange(6) % 5
    certificate = verify(torchvision_file, None, foreign_images, labels, shifts=12)
    _compares_nothing(certificate)
    assert {check.name for check in certificate.failed_checks} == {"top1_consistency"}
    assert certificate.exit_code == 1
    # Its arithmetic was never made for equal bits: they are counted and no fault.
    assert certificate.check("identical_shifts").status == "reported"
    with open_session(torchvision_file) as session:
        base, agreeing = run_batched(session, foreign_images)["logits"].argmax(axis=1), 0
        for dy, dx in certificate.shift_set["offsets"]:
            shifted = run_batched(session, np.roll(foreign_images, (dy, dx), axis=(2, 3)))["logits"]
            agreeing += int((shifted.argmax(axis=1) == base).sum())
    assert certificate.details["consistency"]["agreeing_pairs"] == agreeing < 72
    for name in ("repeat_difference", "identical_rows", "batch_size_difference", "batch_slot_difference"):
        assert certificate.check(name).status == "passed"
    assert certificate.details["authors_protocol"]["accuracy_percent"] is not None
    assert certificate.details["worst_case"]["reference"] is None
    assert certificate.details["reference_consistency"] is None


def test_the_caller_may_free_the_gate(torchvision_file: Path, foreign_images: npt.NDArray[np.float32]) -> None:
    certificate = verify(torchvision_file, None, foreign_images, shifts=2, gates={"top1_consistency": None})
    assert certificate.passed and certificate.overrides == {"top1_consistency": None}


def test_without_a_known_stride_shifts_are_drawn_from_all(
    torchvision_file: Path, foreign_images: npt.NDArray[np.float32]
) -> None:
    certificate = verify(torchvision_file, None, foreign_images[:1])
    assert certificate.shift_set["name"] == "sample"
    assert (len(certificate.shift_set["offsets"]), certificate.shift_set["population"]) == (64, SIDE * SIDE - 1)


def test_a_file_that_takes_one_image_at_a_time(foreign_images: npt.NDArray[np.float32], tmp_path: Path) -> None:
    file = export_torchvision(tmp_path / "one.onnx", batch=1)
    certificate = verify(file, None, foreign_images[:3], shifts=2)
    assert certificate.check("repeat_difference").status == "passed"
    for name in ("identical_rows", "batch_size_difference", "batch_slot_difference"):
        assert certificate.check(name).status == "not_applicable"
    assert certificate.counts["pairs"] == 6


def test_a_consistent_file_of_another_tool_passes(foreign_images: npt.NDArray[np.float32], tmp_path: Path) -> None:
    file = write_average_colour(tmp_path / "colours.onnx", "side")
    certificate = verify(file, None, foreign_images, shifts="all")
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    assert certificate.counts["pairs"] == 6 * (SIDE * SIDE - 1)
    assert certificate.check("top1_consistency").measured == 100
    strict = verify(file, None, foreign_images, shifts=5, gates={"identical_shifts": 100.0})
    assert strict.check("identical_shifts").status != "reported"


def test_a_file_of_this_project_is_held_to_its_own_word(
    exports: dict[str, Path], images: npt.NDArray[np.float32]
) -> None:
    certificate = verify(exports["where"], None, images, shifts=5)
    _compares_nothing(certificate)
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    for name in ("unaudited_layers", "static_findings", "index_range", "identical_shifts", "top1_consistency"):
        assert certificate.check(name).status == "passed", name
    # All shifts modulo the stride that the file declares.
    assert verify(exports["where"], None, images[:1]).shift_set["name"] == "group"


def test_a_strided_file_of_this_project_fails(images: npt.NDArray[np.float32], tmp_path: Path) -> None:
    export_onnx(make_network("resnet20"), tmp_path / "strided.onnx", image_size=IMAGE_SIZE)
    certificate = verify(tmp_path / "strided.onnx", None, images)
    assert {check.name for check in certificate.failed_checks} == {"top1_consistency", "identical_shifts"}


def test_a_checkpoint_needs_no_reference_either(exports: dict[str, Path], images: npt.NDArray[np.float32]) -> None:
    certificate = verify(exports["checkpoint"], None, images[:2], shifts=2)
    assert certificate.passed and certificate.environment["runtime"] == "torch"


def test_what_is_no_classifier_is_refused(foreign_images: npt.NDArray[np.float32], tmp_path: Path) -> None:
    import onnx

    model = onnx.load(write_average_colour(tmp_path / "colours.onnx"))
    model.graph.node[0].attribute[0].i = 1  # keepdims: (N, 3, 1, 1), which MatMul multiplies by columns
    model.graph.node.pop(1)
    del model.graph.output[0]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "map.onnx")
    with pytest.raises(InputError, match=r"shape \(6, 3, 1, 1\)"):
        verify(tmp_path / "map.onnx", None, foreign_images, shifts=1)


def test_answers_of_nothing_cannot_be_saved(torchvision_file: Path, foreign_images: npt.NDArray[np.float32]) -> None:
    with pytest.raises(InputError, match="no reference whose answers"):
        verify(torchvision_file, None, foreign_images, save_to="answers.npz")
