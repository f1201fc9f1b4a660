"""Other files and saved answers as references: compared where both chose alike, and never silently elsewhere."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from aps_deploy.errors import ApsError, InputError
from aps_deploy.export import export_onnx
from aps_deploy.models import ResNet
from aps_deploy.runtimes import ModelMetadata
from aps_deploy.verification import Certificate, report_html, verify
from aps_deploy.verification.digests import digest_images
from aps_deploy.verification.references.base import ReferenceTrace
from aps_deploy.verification.references.checkpoint import load_reference
from aps_deploy.verification.references.compared import compared_trace
from aps_deploy.verification.references.onnx_file import OnnxReference
from aps_deploy.verification.references.resolving import resolve_reference
from aps_deploy.verification.references.saved import SavedReference, save_reference
from aps_deploy.verification.schema import certificate_schema, first_fault
from aps_deploy.verification.selection import compare_selections
from tests.verification.conftest import IMAGE_SIZE, PREPROCESSING, make_images, make_network
from tests.verification.foreign import SIDE, export_torchvision

Images = npt.NDArray[np.float32]
REST = ModelMetadata()


@pytest.fixture(scope="module")
def saved(exports: dict[str, Path], images: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint's answers, written by a verification against it."""
    path = tmp_path_factory.mktemp("saved") / "answers.npz"
    certificate = verify(exports["where"], exports["checkpoint"], images, shifts=2, save_to=path, seed=5)
    assert certificate.passed and certificate.reference["saved"] is None
    return path


def _fits_the_schema(certificate: Certificate) -> None:
    assert first_fault(certificate.to_dict(), certificate_schema()) is None


def test_saved_answers_judge_as_the_checkpoint_does(exports: dict[str, Path], images: Images, saved: Path) -> None:
    labels = np.arange(8) % 7
    there = verify(exports["where"], exports["checkpoint"], images, labels, shifts=2)
    here = verify(exports["where"], saved, images, labels, shifts=2)
    _fits_the_schema(here)
    assert here.passed, [check.sentence() for check in here.failed_checks]
    # Where all choices are the same, nothing had to be forced: the numbers are the same to the last digit.
    assert here.checks == there.checks
    for name in ("selection", "consistency", "authors_protocol"):
        assert here.details[name] == there.details[name]
    assert {**here.details["parity"], "choices": "forced"} == there.details["parity"]
    assert here.details["parity"]["choices"] == "same"
    assert {**here.reference, "kind": "checkpoint", "saved": None} == there.reference
    assert here.reference["kind"] == "saved" and here.reference["is_named_by_file"]
    assert here.reference["saved"]["name"] == "answers.npz" and here.reference["saved"]["kind"] == "checkpoint"
    # Shifted images have no answers.
    assert here.details["reference_consistency"] is None and here.details["worst_case"]["reference"] is None
    assert "answers were saved" in report_html(here)


def test_any_of_the_saved_images_in_any_order(exports: dict[str, Path], images: Images, saved: Path) -> None:
    order = np.array([6, 1, 1, 4])
    certificate = verify(exports["where"], saved, images[order], shifts=1)
    assert certificate.passed and certificate.reference["saved"]["num_images"] == 4
    reference = SavedReference.load(saved).for_images(digest_images(images[order], each=True), images[order].shape)
    expected = load_reference(exports["checkpoint"]).trace(images).logits[order]
    np.testing.assert_allclose(reference.trace(images[order]).logits, expected, atol=1e-6)


def test_other_images_are_refused(exports: dict[str, Path], images: Images, saved: Path) -> None:
    others = images.copy()
    others[2:4] = np.nextafter(others[2:4], np.float32(9))
    with pytest.raises(InputError, match=r"2 of the 8 images are not among the 8 .* --seed 5") as caught:
        verify(exports["where"], saved, others)
    assert caught.value.exit_code == 2
    with pytest.raises(InputError, match="16x16, these are 20x20"):
        verify(exports["where"], saved, make_images(2, 20))


def test_another_architecture_is_refused(images: Images, saved: Path, tmp_path: Path) -> None:
    export_onnx(make_network("resnet20"), tmp_path / "net.onnx", image_size=IMAGE_SIZE)
    with pytest.raises(InputError, match="give the checkpoint the file was made from"):
        verify(tmp_path / "net.onnx", saved, images)


def test_other_weights_fail_and_what_cannot_be_compared_is_counted(
    exports: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    path = tmp_path / "other.npz"
    other = load_reference(make_network(seed=1))
    trace = other.trace(images)
    save_reference(
        path, other, trace, digest_images(images, each=True), shape=images.shape, preprocessing=PREPROCESSING, seed=0
    )
    certificate = verify(exports["where"], path, images, shifts=1)
    _fits_the_schema(certificate)
    failed = {check.name for check in certificate.failed_checks}
    assert {"unexplained_selections", "parity_images"} <= failed and certificate.exit_code == 1
    chosen = load_reference(exports["checkpoint"]).trace(images).chosen
    same = (chosen == trace.chosen).all(axis=1)
    assert certificate.counts["parity_images"] == same.sum() < 8
    assert certificate.check("parity_images").measured == pytest.approx(100 * same.mean())
    # Behind the first difference of an image nothing is judged.
    first, second = certificate.details["selection"]["layers"]
    differs = int((chosen[:, 0] != trace.chosen[:, 0]).sum())
    assert (first["not_judged"], second["not_judged"]) == (0, differs)
    for layer in (first, second):
        assert sum(layer[name] for name in ("agreed", "explained", "unexplained", "tied", "not_judged")) == 8


def test_if_no_image_can_be_compared_nothing_passes_for_parity(
    exports: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    path = tmp_path / "turned.npz"
    reference = load_reference(exports["checkpoint"])
    trace = reference.trace(images)
    turned = dataclasses.replace(trace, chosen=(trace.chosen + 1) % 4)
    digest = digest_images(images, each=True)
    save_reference(path, reference, turned, digest, shape=images.shape, preprocessing=None, seed=0)
    certificate = verify(exports["where"], path, images, np.zeros(8, np.int64), shifts=1)
    assert certificate.check("parity_images").status == "failed"
    for name in ("parity_excess", "parity_mean_abs", "parity_cosine", "clear_top1_changes"):
        assert certificate.check(name).status == "not_applicable"
    # Accuracy asks for no equal choices.
    assert certificate.check("accuracy_drop").measured == 0
    assert "Not compared" not in report_html(certificate) and "parity_images counts" in report_html(certificate)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "other archive", "cut", "version", "shape", "about"])
def test_damaged_answers_are_refused(kind: str, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "answers.npz"
    with np.load(saved) as archive:
        arrays = {name: archive[name] for name in archive.files}
    about = json.loads(str(arrays["about"]))
    if kind in ("empty", "text"):
        path.write_bytes(b"" if kind == "empty" else b"not an archive")
    elif kind == "cut":
        path.write_bytes(saved.read_bytes()[:-200])
    elif kind == "other archive":
        np.savez(path, image=np.zeros(3))
    elif kind != "missing":
        about |= {"version": 9} if kind == "version" else {"promised": []} if kind == "about" else {}
        if kind == "shape":
            arrays["margins"] = arrays["margins"][:-1]
        np.savez(path, **{**arrays, "about": np.asarray(json.dumps(about))})
    with pytest.raises(InputError, match=r"answers\.npz") as caught:
        SavedReference.load(path)
    assert caught.value.exit_code == 2


def test_saved_answers_hold_no_objects(saved: Path) -> None:
    with np.load(saved, allow_pickle=False) as archive:
        assert {archive[name].dtype.kind for name in archive.files} <= {"f", "i", "u", "U"}


@pytest.mark.parametrize("form", ["gather", "custom-op"])
def test_another_file_is_a_reference(form: str, exports: dict[str, Path], images: Images) -> None:
    certificate = verify(exports["where"], exports[form], images, shifts=2)
    _fits_the_schema(certificate)
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    assert certificate.reference["kind"] == "onnx"
    assert certificate.details["parity"]["choices"] == "same"
    assert certificate.check("parity_images").measured == 100
    assert certificate.counts["agreed"] + certificate.counts["tied"] == 16
    assert all(layer["measured_error"] is not None for layer in certificate.details["selection"]["layers"])
    assert certificate.details["reference_consistency"]["identical_pairs"] == 16


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_low_precision_against_the_float32_file(precision: str, precise: dict[str, Path], images: Images) -> None:
    against_checkpoint = verify(precise[precision], precise["checkpoint"], images, shifts=1)
    certificate = verify(precise[precision], precise["fp32"], images, shifts=1)
    gates = {check.name: check.status for check in certificate.checks if check.name != "parity_images"}
    assert gates == {check.name: check.status for check in against_checkpoint.checks if check.name != "parity_images"}
    compared = certificate.counts["parity_images"]
    assert certificate.details["parity"]["left_out"] == 8 - compared
    assert certificate.counts["not_judged"] <= 8 - compared


def test_a_reference_that_tells_its_choices_but_no_margins(
    exports: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    bare = onnx.load(exports["where"])
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    certificate = verify(exports["where"], tmp_path / "bare.onnx", images, shifts=1)
    _fits_the_schema(certificate)
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    assert certificate.counts["agreed"] == 16
    assert "no margins" in certificate.details["selection"]["scores"]
    assert certificate.check("declared_differently").status == "not_applicable"


def test_two_files_of_another_tool_are_compared_as_they_are(tmp_path: Path) -> None:
    files = [export_torchvision(tmp_path / f"{seed}.onnx", seed=seed) for seed in (0, 1)]
    images = make_images(4, SIDE)
    same = verify(files[0], files[0], images, shifts=1, gates={"top1_consistency": None})
    assert same.passed and same.details["parity"]["choices"] == "unknown"
    assert same.details["parity"]["max_abs"] == 0 and same.check("parity_images").measured == 100
    assert same.check("identical_shifts").status == "reported"
    other = verify(files[0], files[1], images, shifts=1)
    assert {"parity_excess", "parity_mean_abs"} <= {check.name for check in other.failed_checks}


def test_other_numbers_of_classes_cannot_be_compared(exports: dict[str, Path], images: Images, tmp_path: Path) -> None:
    file = export_torchvision(tmp_path / "five.onnx")
    with pytest.raises(InputError, match="7 classes"):
        verify(file, exports["where"], make_images(2, SIDE))


def test_what_cannot_be_forced_says_so(exports: dict[str, Path], saved: Path, images: Images) -> None:
    forced = np.zeros((8, 2), np.int64)
    for path in (exports["where"], saved):
        reference = resolve_reference(path, REST)
        assert not reference.can_force
        with pytest.raises(ApsError):
            reference.trace(images, forced)
    with pytest.raises(ApsError, match="cannot be run"):
        resolve_reference(saved, REST).run(images)


def test_only_images_with_other_choices_are_run_again(network: ResNet, images: Images) -> None:
    reference = load_reference(network)
    own = reference.trace(images)
    indices = own.chosen.copy()
    indices[[1, 5], 0] = (indices[[1, 5], 0] + 1) % 4
    runs: list[int] = []

    class Counted:
        can_force = True

        def trace(self, some: Images, forced: npt.NDArray[np.int64], **arguments: object) -> ReferenceTrace:
            runs.append(len(some))
            return reference.trace(some[:], forced)

    compared = compared_trace(Counted(), images, own, indices)  # type: ignore[arg-type]
    assert runs == [2] and compared.choices == "forced"
    assert compared.comparable.all() and compared.judged.all()
    whole = reference.trace(images, indices)
    np.testing.assert_array_equal(compared.trace.indices, indices)
    np.testing.assert_array_equal(compared.trace.chosen, whole.chosen)
    for name in ("logits", "margins", "scores"):
        np.testing.assert_allclose(getattr(compared.trace, name), getattr(whole, name), rtol=1e-4, atol=1e-6)


def test_what_lies_behind_the_first_difference_is_not_judged() -> None:
    chosen = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 0]])
    indices = np.array([[0, 0, 0], [0, 1, 0], [2, 0, 0]])
    own = ReferenceTrace(np.zeros((3, 2), np.float32), chosen, chosen, np.ones((3, 3)), np.zeros((3, 3, 4)))
    compared = compared_trace(SimpleNamespace(can_force=False), np.zeros((3, 3, 4, 4), np.float32), own, indices)  # type: ignore[arg-type]
    np.testing.assert_array_equal(compared.judged, [[True, True, True], [True, True, False], [True, False, False]])
    np.testing.assert_array_equal(compared.comparable, [True, False, False])
    agreement = compare_selections(
        ("a", "b", "c"), indices, chosen, own.scores, own.margins, file_scores=None, cap=1.0, judged=compared.judged
    )
    assert [layer.unexplained for layer in agreement.layers] == [1, 1, 0]
    assert [layer.not_judged for layer in agreement.layers] == [0, 1, 2]
    assert [layer.agreed for layer in agreement.layers] == [2, 1, 1]


def test_a_near_tie_explains_a_difference_in_saved_answers_too() -> None:
    """The margin that explains is the one at the first layer that differs, where both saw the same map."""
    scores = np.array([[[1.0, 1.0 - 1e-6, 0.5, 0.4]], [[1.0, 0.7, 0.5, 0.4]]])
    chosen = np.array([[0], [0]])
    margins = np.array([[1e-6], [0.3]])
    file_scores = (np.array([[1.0 - 2e-6, 1.0 - 1e-6, 0.5, 0.4], [1.0, 0.7 + 1e-5, 0.5, 0.4]]),)
    agreement = compare_selections(
        ("a",), np.array([[1], [0]]), chosen, scores, margins, file_scores=file_scores, cap=1e-4,
        judged=np.ones((2, 1), bool),
    )  # fmt: skip
    (layer,) = agreement.layers
    assert (layer.agreed, layer.explained, layer.unexplained) == (1, 1, 0)


def test_the_answers_of_a_file_can_be_saved_too(exports: dict[str, Path], images: Images, tmp_path: Path) -> None:
    reference = OnnxReference(exports["gather"])
    verify(exports["where"], reference, images, shifts=1, save_to=tmp_path / "answers.npz")
    loaded = SavedReference.load(tmp_path / "answers.npz")
    assert loaded.told()["kind"] == "onnx" and loaded.sha256 == reference.sha256
    certificate = verify(exports["where"], loaded, images, shifts=1)
    assert certificate.passed and certificate.details["parity"]["choices"] == "same"
