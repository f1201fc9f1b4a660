from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest

from aps_deploy.runtimes import ModelMetadata
from aps_deploy.verification.graph import GraphView
from aps_deploy.verification.instrument import load_inlined
from aps_deploy.verification.score_names import located_selections
from tests.verification.conftest import FORMS
from tests.verification.sabotage import nodes


def _with_scores(metadata: ModelMetadata, name: str) -> ModelMetadata:
    """Return metadata that calls the first selection's scores ``name``."""
    first, *rest = metadata.selections
    return dataclasses.replace(metadata, selections=(dataclasses.replace(first, scores=name), *rest))


@pytest.mark.parametrize("form", FORMS)
def test_scores_of_another_name_are_found_by_their_place(form: str, exports: dict[str, Path]) -> None:
    metadata, model = ModelMetadata.from_onnx(exports[form]), load_inlined(exports[form])
    assert located_selections(model, metadata) is metadata
    assert located_selections(model, _with_scores(metadata, "renamed")) == metadata


def test_what_is_nowhere_keeps_its_name(exports: dict[str, Path]) -> None:
    model = load_inlined(exports["where"])
    renamed = _with_scores(ModelMetadata.from_onnx(exports["where"]), "renamed")
    nodes(model, "Split")[0].op_type = "Identity"
    assert located_selections(model, renamed) == renamed


def _constants() -> GraphView:
    made = [
        onnx.helper.make_node("Constant", [], ["one"], value_int=1),
        onnx.helper.make_node("Constant", [], ["some"], value_floats=[1.0, 2.0]),
        onnx.helper.make_node("Constant", [], ["words"], value_strings=[b"a"]),
        onnx.helper.make_node("Identity", ["some"], ["again"]),
        onnx.helper.make_node("Add", ["again", "some"], ["sum"]),
    ]
    output = onnx.helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(made, "g", [], [output])
    return GraphView(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]))


def test_constants_are_known_however_they_are_written() -> None:
    graph = _constants()
    one, again = graph.constant("one"), graph.constant("again")
    assert one is not None and one.dtype == "int64" and one.item() == 1
    assert again is not None and again.dtype == "float32" and again.tolist() == [1.0, 2.0]
    assert [graph.is_constant(name) for name in ("one", "again", "words", "sum", "nothing")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert graph.element_type("one") == onnx.TensorProto.INT64
    assert graph.shape("some") == (2,)
