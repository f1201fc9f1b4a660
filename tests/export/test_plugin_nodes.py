"""The form with the operators of TensorRT's plugins: three nodes for a selection, and the same bits as without."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from aps_deploy.export.forms import selection_values
from aps_deploy.export.onnx_export import finish_onnx, trace_onnx
from aps_deploy.export.op_names import Choice
from aps_deploy.export.plugin_nodes import plugin_nodes
from aps_deploy.polyphase import polyphase_index, polyphase_take
from tests.export.support import (
    OPSET,
    RUNTIMES,
    Runtime,
    exported,
    known_maps,
    run,
    select_model,
    short_model,
    with_scores,
)
from tests.plugins.tensorrt.selections import selection_model

CRITERIA = ("l2", "l1", "l2_min", "l1_min")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_three_bodies_are_the_one(criterion: str, stride: int, runtime: Runtime) -> None:
    images = np.stack(list(known_maps(stride).values()))
    choice = Choice(criterion, stride=stride)
    found = run(selection_model(criterion, stride), images, runtime)
    expected = run(with_scores(select_model(choice), choice), images, runtime)
    for values, others in zip(found, expected, strict=True):
        assert values.dtype == others.dtype
        assert values.tobytes() == others.tobytes()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_half_precision_maps_are_compared_in_float32(runtime: Runtime) -> None:
    rng = np.random.default_rng(1)
    # Squares of 200 to 600 and their sums are beyond float16's largest number, 65504.
    shape = (16, 6, 8, 10)
    images = (rng.integers(200, 600, shape) * rng.choice([-1, 1], shape)).astype(np.float16)
    x = torch.from_numpy(images)
    expected = polyphase_index(x, 2, "l2", "exact")
    kept, index, _ = run(selection_model("l2", 2, TensorProto.FLOAT16), images, runtime)
    assert len(set(index.tolist())) > 1
    np.testing.assert_array_equal(index, expected.numpy())
    np.testing.assert_array_equal(kept, polyphase_take(x, expected).numpy())


def test_nodes_are_what_the_parser_looks_for() -> None:
    _, proto = exported("resnet18_aps4", 32, "plugin", short=True)
    nodes = plugin_nodes(proto)
    # Two selections in the stem, three in the stages; the shortcuts take by a known index, in standard operators.
    assert Counter(node.op_type for node in nodes) == {
        "PolyphaseEnergy_L2": 5,
        "PolyphaseScore": 5,
        "PolyphaseBest": 5,
    }
    assert {node.domain for node in proto.graph.node} == {"", "aps"}
    assert [node for node in proto.graph.node if node.domain == "aps"] == nodes
    for node in nodes:
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        assert attributes == {"plugin_namespace": b"aps", "plugin_version": b"1", "stride": 2}
        assert all(node.output)
        assert node.name.endswith(f"/{node.op_type}")
    bodies = Counter(function.name for function in proto.functions)
    assert bodies == {"PolyphaseEnergy_L2": 1, "PolyphaseScore": 1, "PolyphaseBest": 1}


def test_names_inside_a_body_are_not_those_of_the_graph() -> None:
    _, proto = exported("resnet18_aps4", 32, "plugin", short=True)
    values = {name for node in proto.graph.node for name in (*node.input, *node.output)}
    for function in proto.functions:
        inner = {name for node in function.node for name in node.output} - set(function.output)
        assert all(name.startswith("aps__") for name in inner)
        assert not inner & values


def test_what_looks_and_takes_elsewhere_has_two_nodes_and_comparisons() -> None:
    # The CIFAR family selects before the blur and takes after it: no one node reads a single map.
    _, proto = exported("resnet20_aps3", 8, "plugin", short=True)
    assert Counter(node.op_type for node in plugin_nodes(proto)) == {"PolyphaseEnergy_L2": 2, "PolyphaseScore": 2}
    makers = {name: node for node in proto.graph.node for name in node.output}
    for index, scores in selection_values(proto):
        assert makers[index].op_type == "Squeeze"
        assert makers[scores].op_type == "ReduceSum"  # over the parts


def test_sizes_of_parts_are_nowhere_stated() -> None:
    """TensorRT's plugins make more parts than the bodies do."""
    _, proto = exported("resnet18_aps4", 32, "plugin", short=True)
    parts = {node.output[-1] for node in plugin_nodes(proto) if "Best" not in node.op_type}
    assert len(parts) == 10
    stated = {value.name for value in proto.graph.value_info}
    assert not parts & stated
    energies = {node.output[0] for node in plugin_nodes(proto) if "Energy" in node.op_type}
    assert energies <= stated


@pytest.mark.parametrize("options", [{"criterion": "linf"}, {"selection": "float"}], ids=str)
def test_selections_without_kernels_stay_standard_operators(options: dict[str, str]) -> None:
    model = short_model("resnet20_aps3", **options)
    proto = finish_onnx(trace_onnx(model, height=8, width=8, opset=OPSET), "plugin")
    assert len(model.selection_layers) == len(selection_values(proto)) == 2
    assert not proto.functions
    assert {node.domain for node in proto.graph.node} == {""}
