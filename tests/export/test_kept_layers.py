"""Layers that stay float32 in a file of another precision."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aps_deploy.errors import InputError
from aps_deploy.export.kept_layers import check_kept, kept_layers
from aps_deploy.export.onnx_export import finish_onnx
from aps_deploy.export.precisions import in_half_precision
from aps_deploy.export.quantisation import quantised
from aps_deploy.verification.layer_precision import file_precision, layer_precisions, with_kept
from tests.export.support import ort_session, traced

SIZE = 8


def _graph(*layers: tuple[str, str]) -> onnx.GraphProto:
    nodes = [helper.make_node("Conv", ["x", f"{module}.weight"], [name], name=name) for name, module in layers]
    nodes.append(helper.make_node("Relu", ["x"], ["y"], name="layer1.0/Relu"))
    return helper.make_graph(nodes, "g", [], [])


SHARED = _graph(("first/Conv", "first"), ("second/Conv", "first"))
GRAPH = _graph(("bn1/Conv", "conv1"), ("layer1.0.bn1/Conv", "layer1.0.conv1"), ("layer1.0.bn2/Conv", "layer1.0.conv2"))


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        ((), ()),
        (("layer1.0.bn1/Conv",), ("layer1.0.bn1/Conv",)),
        (("layer1.0.bn1",), ("layer1.0.bn1/Conv",)),
        (("layer1.0.conv1",), ("layer1.0.bn1/Conv",)),
        (("layer1.*",), ("layer1.0.bn1/Conv", "layer1.0.bn2/Conv")),
        (("layer1.0.conv2", "conv1"), ("bn1/Conv", "layer1.0.bn2/Conv")),
        (("*",), ("bn1/Conv", "layer1.0.bn1/Conv", "layer1.0.bn2/Conv")),
    ],
)
def test_layers_go_by_node_scope_weights_and_pattern(patterns: tuple[str, ...], kept: tuple[str, ...]) -> None:
    assert kept_layers(GRAPH, patterns) == kept


def test_shared_weights_name_no_layer() -> None:
    assert kept_layers(SHARED, ["first"]) == ("first/Conv",)
    assert kept_layers(SHARED, ["second"]) == ("second/Conv",)


def test_what_names_no_layer_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(InputError, match=r"layer1.0.conv3 names no layer.*did you mean layer1.0.conv"):
        kept_layers(GRAPH, ["conv1", "layer1.0.conv3"])
    with pytest.raises(InputError, match="names no layer"):
        kept_layers(GRAPH, ["layer1.0/Relu"])


def test_nothing_can_be_kept_in_a_float32_file() -> None:
    check_kept("fp32", ())
    check_kept("int8", ["conv1"])
    with pytest.raises(InputError, match="leave it out"):
        check_kept("fp32", ["conv1"])


def _images(count: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_kept_layers_compute_in_float32_and_all_others_as_before(precision: str) -> None:
    _, graph = traced("resnet20_aps3", SIZE, SIZE, short=True)
    # A shared blur among them: only the layer that is kept may get float32 weights.
    kept = kept_layers(graph.graph, ["layer2.0.conv2", "layer2.0.pool.blur"])
    assert len(kept) == 2
    if precision == "fp16":
        narrow, plain = in_half_precision(graph, "fp16", kept), in_half_precision(graph, "fp16")
    else:
        narrow, plain = quantised(graph, _images(32), "minmax", kept), quantised(graph, _images(32), "minmax")
    proto = finish_onnx(narrow, "where")
    onnx.checker.check_model(proto, full_check=True)
    layers = with_kept(layer_precisions(proto), kept)
    assert file_precision(layers) == precision
    assert {layer.layer for layer in layers if layer.precision == "fp32" and not layer.is_classifier} == set(kept)
    assert file_precision(layer_precisions(finish_onnx(plain, "where"))) == precision
    read = {name for node in proto.graph.node for name in node.input}
    assert {tensor.name for tensor in proto.graph.initializer} <= read
    if precision == "fp16":
        types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
        assert types["layer2.0.conv2.weight_fp32"] == TensorProto.FLOAT
        assert "layer2.0.conv2.weight" not in types
    session, images = ort_session(proto), _images(2)
    base = session.run(["logits"], {"images": images})[0]
    moved = session.run(["logits"], {"images": np.roll(images, (1, 3), axis=(2, 3))})[0]
    assert base.tobytes() == moved.tobytes()
