"""The probe on files of this project: nothing to find in them, and the sabotaged ones explained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper

from aps_deploy.export.bodies import SCORES, select_function
from aps_deploy.export.op_names import DOMAIN, Choice
from aps_deploy.runtimes.metadata import ModelMetadata, SelectionTensors
from aps_deploy.verification import verify
from aps_deploy.verification.instrument import load_inlined
from aps_deploy.verification.probe.explaining import explain_worst_case
from aps_deploy.verification.probe.probing import probe_file, probe_model
from aps_deploy.verification.schema import certificate_schema, first_fault
from tests.verification import sabotage
from tests.verification.conftest import FORMS
from tests.verification.probe.graphs import HEAD, make_images, model_of, node, wrapped

Images = npt.NDArray[np.float32]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_selection_is_one_whole(form: str, exports: dict[str, Path], images: Images) -> None:
    result = probe_file(exports[form], images[:2], num_threads=1)
    assert result.findings == ()
    assert result.num_checked > 60


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_every_precision_moves_with_the_image(precision: str, precise: dict[str, Path], images: Images) -> None:
    assert probe_file(precise[precision], images[:1], num_threads=1).findings == ()


def test_the_reference_evaluator_agrees(exports: dict[str, Path], images: Images) -> None:
    # NumPy adds a vector in pieces whose borders depend on its length only, never on the place in a map.
    assert probe_file(exports["where"], images[:1], runtime="onnx-reference").findings == ()


def test_a_failed_certificate_names_the_operator(exports: dict[str, Path], images: Images, tmp_path: Path) -> None:
    def zeros_in_layer3(model: object) -> None:
        (pad,) = sabotage.nodes(model, "Pad", "layer3.1.conv1")  # type: ignore[arg-type]
        next(entry for entry in pad.attribute if entry.name == "mode").s = b"constant"

    file = sabotage.write_sabotaged(exports["where"], tmp_path / "zeros.onnx", zeros_in_layer3)
    certificate = verify(file, exports["checkpoint"], images[:4], shifts=3)
    document = certificate.to_dict()
    assert first_fault(document, certificate_schema()) is None
    first = document["details"]["probe"]["first"]
    assert (first["node"], first["kind"]) == ("layer3.1.conv1/Pad", "padding")
    for gate in ("identical_shifts",):
        assert "Pad layer3.1.conv1/Pad: Pad with mode constant" in certificate.check(gate).reason


def test_a_certificate_that_passes_asks_nothing(exports: dict[str, Path], images: Images) -> None:
    certificate = verify(exports["where"], exports["checkpoint"], images[:2], shifts=1)
    assert certificate.check("identical_shifts").status == "passed"
    assert certificate.details["probe"] is None


def test_an_exact_tie_is_told_and_not_counted(tmp_path: Path) -> None:
    model = model_of([node("Identity", ["images"], "map"), *HEAD])
    model.graph.node[0].CopyFrom(helper.make_node("PolyphaseSelect_L2", ["images"], ["map", "index"], domain=DOMAIN))
    model.functions.append(select_function(Choice(), form="where", opset=20))
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    path = tmp_path / "tie.onnx"
    path.write_bytes(model.SerializeToString())
    inlined = load_inlined(path)
    scores = next(name for each in inlined.graph.node for name in each.output if SCORES in name)
    image = np.zeros((1, 3, 8, 8), np.float32)
    image[:, :, 0, 0] = image[:, :, 3, 2] = 1.0  # equal energy in two components, which differ
    image[:, :, 0, 2] = image[:, :, 5, 6] = 2.0
    session = _Session(inlined, ModelMetadata(selections=(SelectionTensors("pool", "index", scores),)))
    result = probe_model(inlined, session, image, num_threads=1)  # type: ignore[arg-type]
    assert [finding.kind for finding in result.findings] == ["tie"]
    assert result.first is None
    assert result.exit_code == 0


class _Session:
    """A session of a graph, with the metadata that the graph does not carry; its answers can be made to change."""

    def __init__(self, model: object, metadata: ModelMetadata, *, noise: bool = False) -> None:
        from aps_deploy.runtimes import open_session

        self._session = open_session(model, runtime="onnxruntime", device="cpu", num_threads=1)  # type: ignore[arg-type]
        self.metadata, self.noise = metadata, noise
        self.runtime, self.device, self.input_spec = "onnxruntime", "cpu", self._session.input_spec

    def run(self, images: Images) -> dict[str, npt.NDArray[np.float32]]:
        outputs = self._session.run(images)
        if self.noise:
            outputs["logits"] = outputs["logits"] + images[:, :1, 0, 0]
        return outputs


def test_a_file_that_changes_only_as_a_whole_is_found() -> None:
    model = model_of([*wrapped("images", "map"), *HEAD])
    quiet = probe_model(model, _Session(model, ModelMetadata()), make_images())  # type: ignore[arg-type]
    assert quiet.first is None
    loud = probe_model(model, _Session(model, ModelMetadata(), noise=True), make_images())  # type: ignore[arg-type]
    assert loud.first is not None and (loud.first.kind, loud.first.node) == ("whole", "the file")


def test_a_checkpoint_has_no_operators() -> None:
    explanation = explain_worst_case(None, object(), object())  # type: ignore[arg-type]
    assert explanation.first is None and "no operators" in explanation.words
