"""What stands in an exported graph, and what does not."""

from __future__ import annotations

import types
from collections import Counter

import numpy as np
import onnx
import onnx.inliner
import pytest
from torch import Tensor, nn

from aps_deploy.errors import InputError
from aps_deploy.export.forms import POLYPHASE_FORMS, resolve_form, selection_values
from aps_deploy.export.onnx_export import finish_onnx, trace_onnx
from aps_deploy.layers import APS, Selections
from aps_deploy.models import SelectingNetwork
from aps_deploy.polyphase import exact_mean
from tests.export.support import exported, ort_session, traced

# One of each sampler and family, shortened: the structure does not depend on the number of blocks.
NAMES = {"resnet20": 8, "resnet20_aps3": 8, "resnet18_aps4": 32}
STANDARD = {"", "ai.onnx"}
# Nothing may compute shapes, move whole maps around, or leave ties to the runtime.
UNWANTED = {"Shape", "Reshape", "Transpose", "Expand", "Identity", "Constant", "ConstantOfShape", "ArgMax", "TopK",
            "BatchNormalization", "GlobalAveragePool", "ReduceMean", "Loop", "If"}  # fmt: skip


@pytest.mark.parametrize("form", POLYPHASE_FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_graph_holds_only_what_it_must(name: str, form: str) -> None:
    _, proto = exported(name, NAMES[name], form, short=True)
    types = Counter(node.op_type for node in proto.graph.node)
    # A sum over channels and positions at once needs them on one axis, of a constant shape.
    assert not (UNWANTED - {"Reshape"} if form == "one-pass" else UNWANTED) & set(types)
    pads = [node for node in proto.graph.node if node.op_type == "Pad"]
    assert pads
    for node in pads:
        assert onnx.helper.get_node_attr_value(node, "mode") == b"wrap"
    inlined = onnx.inliner.inline_local_functions(proto)
    assert Counter(node.op_type for node in inlined.graph.node)["Gemm"] == 1
    assert all(
        len(value.type.tensor_type.shape.dim) for value in proto.graph.value_info if value.name.startswith("layer")
    )


@pytest.mark.parametrize("form", POLYPHASE_FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_custom_domain_only_where_asked_for(name: str, form: str) -> None:
    model, proto = exported(name, NAMES[name], form, short=True)
    used = {node.domain for node in proto.graph.node}
    declared = {entry.domain for entry in proto.opset_import}
    assert used == declared
    if form not in ("custom-op", "plugin") or not model.selection_layers:
        assert used <= STANDARD
        assert not proto.functions
        return
    assert used == {"", "aps"}
    bodies = Counter(function.name for function in proto.functions)
    calls = {node.op_type for node in proto.graph.node if node.domain == "aps"}
    assert set(bodies) == calls  # a body for each, and none that nothing calls
    assert set(bodies.values()) == {1}  # TensorRT keys bodies by type alone


def test_custom_nodes_are_what_plugins_look_for() -> None:
    _, proto = exported("resnet18_aps4", 32, "custom-op", short=True)
    values = {name for node in proto.graph.node for name in (*node.input, *node.output)}
    values |= {tensor.name for tensor in proto.graph.initializer}
    custom = [node for node in proto.graph.node if node.domain == "aps"]
    # Two in the stem, three in the stages; the shortcuts of the stages take by a known index.
    assert Counter(node.op_type for node in custom) == {"BlurredSelect_L2": 5, "BlurredTake": 3}
    for node in custom:
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        channels = next(tensor.dims[0] for tensor in proto.graph.initializer if tensor.name == node.input[1])
        blur = {"channels": channels, "pads": [0, 0, 1, 1, 0, 0, 2, 2]}  # of a filter of size 4
        assert attributes == {"plugin_namespace": b"aps", "plugin_version": b"1", "stride": 2, **blur}
        assert all(node.output)
        assert node.name
    for function in proto.functions:
        inner = {name for node in function.node for name in node.output} - set(function.output)
        assert all(name.startswith("aps__") for name in inner)
        assert not inner & values


def test_selection_on_the_map_itself_stays_two_nodes() -> None:
    # The CIFAR family selects before the blur and takes after it: no one node reads a single map.
    _, proto = exported("resnet20_aps3", 8, "custom-op", short=True)
    types = Counter(node.op_type for node in proto.graph.node if node.domain == "aps")
    assert types == {"PolyphaseIndex_L2": 2, "BlurredTake": 4}


def test_forms_differ_in_how_they_take() -> None:
    where = Counter(node.op_type for node in exported("resnet18_aps4", 32, "where", short=True)[1].graph.node)
    gather = Counter(node.op_type for node in exported("resnet18_aps4", 32, "gather", short=True)[1].graph.node)
    assert where["GatherND"] == 0
    assert gather["GatherND"] == 8
    assert where["Where"] - gather["Where"] == 8 * 2
    assert where["Slice"] == gather["Slice"] == 8 * 4


def test_one_pass_has_one_reduction_for_each_selection() -> None:
    graphs = [exported("resnet18_aps4", 32, form, short=True)[1].graph for form in ("where", "one-pass")]
    where, one_pass = (Counter(node.op_type for node in graph.node) for graph in graphs)
    # The pooling has a maximum and a sum of its own.
    assert (one_pass["ReduceSumSquare"], one_pass["ReduceMax"], one_pass["ReduceSum"]) == (0, 1, 5 + 1)
    assert (where["ReduceSumSquare"], where["ReduceMax"], where["ReduceSum"]) == (5, 5 + 1, 5 + 1)


def test_one_pass_adds_channels_in_eight_groups_where_they_divide() -> None:
    graph = exported("resnet18_aps4", 32, "one-pass", short=True)[1].graph
    of_groups = Counter(node.name.rpartition("/")[2] for node in graph.node if "sums_of_group" in node.output[0])
    assert sum(of_groups.values()) == 5 * 8


@pytest.mark.parametrize("form", POLYPHASE_FORMS)
@pytest.mark.parametrize("name", ["resnet20_aps3", "resnet18_aps4"])
def test_selections_can_be_read_out_under_their_names(name: str, form: str) -> None:
    model, proto = exported(name, NAMES[name], form, short=True)
    values = selection_values(proto)
    assert len(values) == len(model.selection_layers)
    inlined = onnx.inliner.inline_local_functions(proto)
    for index, scores in values:
        inlined.graph.output.append(onnx.helper.make_tensor_value_info(index, onnx.TensorProto.INT64, ["batch"]))
        inlined.graph.output.append(onnx.helper.make_tensor_value_info(scores, onnx.TensorProto.INT64, ["batch", 4]))
    images = np.random.default_rng(0).standard_normal((3, 3, NAMES[name], NAMES[name])).astype(np.float32)
    _, indices, *found = ort_session(inlined).run(None, {"images": images})
    for column, (index, scores) in enumerate(zip(found[::2], found[1::2], strict=True)):
        np.testing.assert_array_equal(index, indices[:, column])
        np.testing.assert_array_equal(scores.argmax(axis=1), index)


class _OneSelection(SelectingNetwork):
    """A convolution, one APS layer, and the pooled maps as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.pool = nn.Conv2d(3, 4, 1), APS(4, filter_size=3)
        self.selection_layers = ["pool"]
        self.spec = types.SimpleNamespace(name="one")

    def _forward(self, images: Tensor, selections: Selections) -> Tensor:
        return exact_mean(self.pool(self.convolution(images), selections)[0])


@pytest.mark.parametrize("form", POLYPHASE_FORMS)
def test_a_single_selection_is_found_where_nothing_stacks_it(form: str) -> None:
    proto = finish_onnx(trace_onnx(_OneSelection().eval(), height=8, width=8, opset=20), resolve_form(form))
    ((index, scores),) = selection_values(proto)
    inlined = onnx.inliner.inline_local_functions(proto)
    inlined.graph.output.append(onnx.helper.make_tensor_value_info(index, onnx.TensorProto.INT64, ["batch"]))
    inlined.graph.output.append(onnx.helper.make_tensor_value_info(scores, onnx.TensorProto.INT64, ["batch", 4]))
    images = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    _, indices, found, sums = ort_session(inlined).run(None, {"images": images})
    np.testing.assert_array_equal(found, indices[:, 0])
    np.testing.assert_array_equal(sums.argmax(axis=1), found)


@pytest.mark.parametrize("form", POLYPHASE_FORMS)
def test_parameters_keep_their_names_and_nodes_are_named_by_module(form: str) -> None:
    model, proto = exported("resnet20_aps3", 8, form, short=True)
    state = set(model.state_dict()) | {f"{name}.bias" for name, _ in model.named_modules()}
    state |= {name for name, _ in model.named_buffers()}
    tensors = [tensor.name for tensor in proto.graph.initializer if len(tensor.dims) >= 2]
    weights = [name for name in tensors if not name.startswith("shared_constant")]  # those are of the sums in one pass
    assert weights
    assert set(weights) <= state
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)
    assert ("layer2.0/BlurredTake" if form == "custom-op" else "layer2.0.pool.blur/Conv") in names


def test_equal_constants_are_one_initializer() -> None:
    _, proto = exported("resnet18_aps4", 32, "where", short=True)
    small = [t for t in proto.graph.initializer if t.name.startswith("shared_constant")]
    contents = {(t.data_type, tuple(t.dims), onnx.numpy_helper.to_array(t).tobytes()) for t in small}
    assert len(contents) == len(small)
    read = {name for node in proto.graph.node for name in node.input}
    assert {tensor.name for tensor in proto.graph.initializer} <= read


def test_the_traced_graph_serves_every_form() -> None:
    _, graph = traced("resnet20_aps3", 8, 8, short=True)
    before = graph.SerializeToString(deterministic=True)
    finish_onnx(graph, "where")
    finish_onnx(graph, "custom-op")
    assert graph.SerializeToString(deterministic=True) == before


def test_unknown_form_offers_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown polyphase form 'custom_op'.*custom-op"):
        resolve_form("custom_op")
