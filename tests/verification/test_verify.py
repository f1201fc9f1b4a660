from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from aps_deploy.errors import InputError
from aps_deploy.export import export_onnx
from aps_deploy.models import ResNet
from aps_deploy.runtimes import open_session, run_batched
from aps_deploy.verification import Certificate, verify
from aps_deploy.verification.schema import certificate_schema, first_fault
from tests.verification.conftest import FORMS, IMAGE_SIZE, make_images, make_network

Images = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def strided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ResNet]:
    model = make_network("resnet20")
    path = tmp_path_factory.mktemp("strided") / "resnet20.onnx"
    export_onnx(model, path, image_size=IMAGE_SIZE)
    return path, model


def _statuses(certificate: Certificate) -> dict[str, str]:
    return {check.name: check.status for check in certificate.checks}


@pytest.mark.parametrize("form", FORMS)
def test_every_exported_form_passes(form: str, exports: dict[str, Path], images: Images) -> None:
    certificate = verify(exports[form], exports["checkpoint"], images)
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    assert certificate.exit_code == 0
    assert certificate.counts["images"] == 8
    assert certificate.counts["shifts"] == 15
    assert certificate.counts["agreed"] + certificate.counts["tied"] == 16
    assert certificate.counts["not_identical_pairs"] == 0
    assert certificate.counts["pairs"] == 120
    assert set(_statuses(certificate).values()) == {"passed", "reported", "not_applicable"}
    assert certificate.file["polyphase"] == form
    assert certificate.file["declared"] == certificate.reference["promised"]
    assert certificate.file["declared"]["selection"] == "exact"
    assert certificate.reference["is_named_by_file"]
    assert certificate.details["reference_consistency"]["identical_pairs"] == 120
    assert first_fault(certificate.to_dict(), certificate_schema()) is None
    # The score errors are measured, and those of float32.
    for layer in certificate.details["selection"]["layers"]:
        assert 0 < layer["measured_error"] < 1e-5


def test_the_reference_evaluator_passes_too(exports: dict[str, Path], images: Images) -> None:
    certificate = verify(exports["where"], exports["checkpoint"], images[:2], shifts=2, runtime="onnx-reference")
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    assert certificate.environment["runtime"] == "onnx-reference"
    assert certificate.check("identical_shifts").status == "passed"
    assert certificate.check("top1_consistency").status == "passed"


def test_a_checkpoint_verifies_against_itself(exports: dict[str, Path], images: Images) -> None:
    certificate = verify(exports["checkpoint"], exports["checkpoint"], images[:4], shifts=4)
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    assert certificate.environment["runtime"] == "torch"
    assert certificate.details["parity"]["max_abs"] == 0
    assert all(layer["measured_error"] == 0 for layer in certificate.details["selection"]["layers"])


def test_a_strided_network_fails_consistency_and_nothing_else(strided: tuple[Path, ResNet], images: Images) -> None:
    certificate = verify(*strided, images)
    assert certificate.exit_code == 1
    assert {check.name for check in certificate.failed_checks} == {"top1_consistency", "identical_shifts"}
    assert certificate.check("unexplained_selections").status == "not_applicable"
    assert certificate.shift_set["name"] == "group"
    assert certificate.counts["shifts"] == 15
    consistency = certificate.details["consistency"]
    assert consistency["worst_shift"] is not None
    assert 0 < consistency["top1_percent"] < 100
    # The reference, tried on the same images, changes in the same places: the file is a faithful one.
    reference = certificate.details["reference_consistency"]
    assert reference["images"] == list(range(8))
    assert reference["shifts"]["changed"] == consistency["shifts"]["changed"]


def test_the_reference_is_tried_on_few_images_or_none(
    strided: tuple[Path, ResNet], images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aps_deploy.verification.steps.consistency.REFERENCE_PAIRS", 7)
    few = verify(*strided, images, shifts=3).details["reference_consistency"]
    assert (few["images"], few["num_pairs"]) == ([0, 7], 6)
    assert verify(*strided, images[:1], shifts=8).details["reference_consistency"] is None


def test_relaxed_gates_let_a_strided_network_pass_and_are_recorded(
    strided: tuple[Path, ResNet], images: Images
) -> None:
    gates = {"top1_consistency": 1.0, "identical_shifts": None}
    certificate = verify(*strided, images, gates=gates)
    assert certificate.passed
    assert certificate.overrides == gates
    assert certificate.check("identical_shifts").status == "reported"


def test_measured_consistency_equals_a_plain_loop(strided: tuple[Path, ResNet], images: Images) -> None:
    certificate = verify(*strided, images, shifts=9, seed=4)
    with open_session(strided[0]) as session:
        base = run_batched(session, images)["logits"]
        agreeing = identical = 0
        for dy, dx in certificate.shift_set["offsets"]:
            logits = run_batched(session, np.roll(images, (dy, dx), axis=(2, 3)))["logits"]
            agreeing += int((logits.argmax(axis=1) == base.argmax(axis=1)).sum())
            identical += int((logits == base).all(axis=1).sum())
    consistency = certificate.details["consistency"]
    assert consistency["agreeing_pairs"] == agreeing
    assert consistency["identical_pairs"] == identical


def test_other_weights_of_the_same_architecture_fail_parity(exports: dict[str, Path], images: Images) -> None:
    certificate = verify(exports["where"], make_network(seed=1), images, shifts=2)
    assert certificate.exit_code == 1
    assert {"parity_excess", "unexplained_selections"} <= {check.name for check in certificate.failed_checks}
    assert not certificate.reference["is_named_by_file"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("resnet20", {}), ("resnet20_aps1", {}), ("cifar_resnet18_aps3", {}), ("resnet20_aps3", {"num_classes": 10})],
)
def test_another_architecture_is_an_input_error(
    name: str, arguments: dict[str, int], exports: dict[str, Path], images: Images
) -> None:
    with pytest.raises(InputError, match="give the checkpoint the file was made from"):
        verify(exports["where"], make_network(name, **arguments), images)


def test_labels_give_accuracies(exports: dict[str, Path], images: Images, network: ResNet) -> None:
    with torch.inference_mode():
        labels = network(torch.from_numpy(images)).argmax(dim=1).numpy()
    labels[0] = (labels[0] + 1) % 7
    certificate = verify(exports["where"], network, images, labels, shifts=2)
    assert certificate.check("accuracy_drop").measured == 0
    assert certificate.details["parity"]["file_accuracy_percent"] == pytest.approx(87.5)
    assert certificate.details["authors_protocol"]["accuracy_percent"] == pytest.approx(87.5)


def test_tied_images_are_reported_apart(exports: dict[str, Path], images: Images) -> None:
    constant = np.full((2, 3, IMAGE_SIZE, IMAGE_SIZE), 0.5, np.float32)
    certificate = verify(exports["where"], exports["checkpoint"], np.concatenate([images, constant]), shifts=3)
    assert certificate.passed
    assert certificate.counts["tied"] == 4
    assert certificate.counts["tied_images"] == 2
    assert certificate.counts["tied_pairs"] == 6
    assert certificate.counts["pairs"] == 24
    assert certificate.counts["agreed"] == 16


def test_only_tied_images_are_no_evidence(exports: dict[str, Path]) -> None:
    constant = np.full((2, 3, IMAGE_SIZE, IMAGE_SIZE), 0.5, np.float32)
    certificate = verify(exports["where"], exports["checkpoint"], constant, shifts=3)
    assert certificate.exit_code == 1
    assert "every image ties" in certificate.check("top1_consistency").reason


def _foreign(source: Path, target: Path, *, output: str = "output", drop_indices: bool = True) -> Path:
    """Write the graph as another tool would: other names, no metadata, no indices."""
    model = onnx.load(source)
    del model.metadata_props[:]
    for node in model.graph.node:
        for position, name in enumerate(node.output):
            if name == "logits":
                node.output[position] = output
    model.graph.output[0].name = output
    if drop_indices:
        del model.graph.output[1:]
    onnx.save(model, target)
    return target


@pytest.mark.parametrize(("drop_indices", "lacks"), [(True, "no output polyphase_indices"), (False, "no metadata")])
def test_a_file_that_gives_no_evidence_of_its_selections_fails(
    drop_indices: bool, lacks: str, exports: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    file = _foreign(exports["where"], tmp_path / "foreign.onnx", drop_indices=drop_indices)
    certificate = verify(file, exports["checkpoint"], images[:2], shifts=1)
    assert certificate.exit_code == 1
    (failed,) = certificate.failed_checks
    assert (failed.name, failed.measured) == ("unaudited_layers", 2)
    assert "not auditable" in failed.reason
    assert lacks in failed.reason


def test_by_an_explicit_gate_it_is_measured_as_far_as_it_goes(
    exports: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    file = _foreign(exports["where"], tmp_path / "foreign.onnx")
    certificate = verify(file, exports["checkpoint"], images, shifts=3, gates={"unaudited_layers": None})
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    assert certificate.check("unaudited_layers").status == "reported"
    assert certificate.check("unaudited_layers").measured == 2
    assert certificate.overrides == {"unaudited_layers": None}
    for name in ("unexplained_selections", "static_findings", "declared_differently"):
        assert certificate.check(name).status == "not_applicable"
    assert certificate.check("identical_shifts").status == "passed"
    assert certificate.file["architecture"] is None
    assert certificate.file["declared"] is None


def test_a_file_of_another_tool_needs_no_evidence_where_nothing_selects(
    strided: tuple[Path, ResNet], images: Images, tmp_path: Path
) -> None:
    file = _foreign(strided[0], tmp_path / "foreign.onnx")
    gates = {"top1_consistency": 1.0, "identical_shifts": None}
    certificate = verify(file, strided[1], images[:4], shifts=2, gates=gates)
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    for name in ("unaudited_layers", "declared_differently", "static_findings"):
        assert certificate.check(name).status == "not_applicable"


def test_a_file_of_another_tool_with_other_classes_is_an_input_error(
    exports: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    file = _foreign(exports["where"], tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match="10 classes"):
        verify(file, make_network(num_classes=10), images)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((0, 3, 16, 16), np.float32), "no images"),
        (np.zeros((2, 3, 16, 16), np.float64), "float32"),
        (np.zeros((3, 16, 16), np.float32), "shape"),
        (np.zeros((2, 1, 16, 16), np.float32), "shape"),
        (np.full((2, 3, 16, 16), np.nan, np.float32), "NaN"),
        (np.zeros((2, 3, 18, 18), np.float32), "18x18"),
    ],
)
def test_unusable_images_are_input_errors(bad: Images, message: str, exports: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=message) as caught:
        verify(exports["where"], exports["checkpoint"], bad)
    assert caught.value.exit_code == 2


def test_labels_must_fit(exports: dict[str, Path], images: Images) -> None:
    for labels in (np.zeros(3, np.int64), np.zeros(8), np.zeros((8, 1), np.int64)):
        with pytest.raises(InputError, match="labels"):
            verify(exports["where"], exports["checkpoint"], images, labels)


def test_a_missing_file_is_an_input_error(exports: dict[str, Path], images: Images, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        verify(tmp_path / "none.onnx", exports["checkpoint"], images)
    with pytest.raises(InputError, match="does not exist"):
        verify(exports["where"], tmp_path / "none.safetensors", images)
    with pytest.raises(InputError, match="dict"):
        verify(exports["where"], {}, images)  # type: ignore[arg-type]


def test_a_damaged_file_is_an_input_error(exports: dict[str, Path], images: Images, tmp_path: Path) -> None:
    file = tmp_path / "cut.onnx"
    file.write_bytes(exports["where"].read_bytes()[:5000])
    with pytest.raises(InputError):
        verify(file, exports["checkpoint"], images)


def test_the_callers_network_is_left_as_it_was(exports: dict[str, Path], images: Images, network: ResNet) -> None:
    training = make_network()
    training.load_state_dict(network.state_dict())
    training.train().double()
    before = {name: value.clone() for name, value in training.state_dict().items()}
    certificate = verify(exports["where"], training, images, shifts=2)
    assert certificate.passed
    assert training.training
    after = training.state_dict()
    assert all(after[name].dtype == value.dtype and torch.equal(after[name], value) for name, value in before.items())


def test_a_certificate_is_reproducible(exports: dict[str, Path], images: Images) -> None:
    documents = []
    for _ in range(2):
        document = verify(exports["where"], exports["checkpoint"], images, shifts=5, seed=7).to_dict()
        document.pop("created")
        documents.append(json.dumps(document, allow_nan=False))
    assert documents[0] == documents[1]
    other = verify(exports["where"], exports["checkpoint"], images, shifts=5, seed=8)
    assert other.shift_set["offsets"] != json.loads(documents[0])["shift_set"]["offsets"]


def test_hashes_are_those_of_the_files(exports: dict[str, Path], images: Images) -> None:
    import hashlib

    certificate = verify(exports["where"], exports["checkpoint"], images, shifts=1)
    assert certificate.file["sha256"] == hashlib.sha256(exports["where"].read_bytes()).hexdigest()
    assert certificate.reference["sha256"] == hashlib.sha256(exports["checkpoint"].read_bytes()).hexdigest()
    assert certificate.data["sha256"] == hashlib.sha256(images.tobytes()).hexdigest()
    assert {"torch", "onnx", "numpy", "python", "aps_deploy"} <= set(certificate.environment["versions"])


@pytest.mark.parametrize(
    ("arguments", "size"),
    [pytest.param({"selection": "float"}, (16, 16), marks=pytest.mark.slow), ({"criterion": "l1_min"}, (16, 24))],
)
def test_float_selection_other_criteria_and_rectangles(
    arguments: dict[str, str], size: tuple[int, int], tmp_path: Path
) -> None:
    model = make_network("resnet20_aps2", **arguments)
    export_onnx(model, tmp_path / "net.onnx", image_size=size)
    images = make_images(6, 24)[:, :, : size[0], : size[1]].copy()
    certificate = verify(tmp_path / "net.onnx", model, images, shifts=12, gates={"identical_shifts": None})
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    assert certificate.counts["agreed"] == 12
    assert (certificate.data["height"], certificate.data["width"]) == size
    largest = np.array(certificate.shift_set["offsets"]).max(axis=0)
    assert (largest >= np.array(size) // 2).all()
    if "selection" not in arguments:
        assert certificate.check("identical_shifts").measured == 100
