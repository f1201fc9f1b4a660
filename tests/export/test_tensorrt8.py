"""The file for TensorRT 8: nothing its parser lacks, and the numbers of the other files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from aps_deploy.errors import ApsError, InputError
from aps_deploy.export import export_onnx
from aps_deploy.export.limbs import limb_bits
from aps_deploy.export.narrow_integers import limb_bits_of_selections, with_narrow_integers
from aps_deploy.export.onnx_export import finish_for_tensorrt8, finish_onnx, in_precision
from aps_deploy.export.precisions import in_half_precision
from aps_deploy.export.tensorrt8 import check_target_options, in_legacy_opset, resolve_target, unknown_to_tensorrt8
from aps_deploy.export.tensorrt8_operators import TYPES_BY_OPERATOR, VALUE_TYPES
from aps_deploy.runtimes import METADATA_KEY, ModelMetadata, open_session
from tests.export.engines.toys import SIZE, legacy_toy, narrowed_toy, traced_toy
from tests.export.support import RUNTIMES, Runtime, run, short_model, traced

LegacyPrecision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[LegacyPrecision, ...] = ("fp32", "fp16", "int8")
NOT_THERE = ("int8", "reference")


def _check_types(proto: onnx.ModelProto) -> None:
    """The rules anew, from the table alone: operators, types, no 64-bit number that is computed or beyond 32 bits."""
    graph = proto.graph
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    assert proto.ir_version == 8 and not proto.functions
    onnx.checker.check_model(proto, full_check=True)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for value in constants.values():
        if value.dtype.kind == "i" and value.size:
            assert -(2**31) <= value.min() <= value.max() < 2**31
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.value_info, *graph.output]}
    for node in graph.node:
        assert not node.domain
        accepted = TYPES_BY_OPERATOR[node.op_type]
        for name in node.input:
            assert name in constants or types[name] in accepted, (node.op_type, name)
        for name in node.output:
            assert types[name] in VALUE_TYPES, (node.op_type, name)
        assert not {"Constant", "Pad", "Shape", "ArgMax", "TopK"} & {node.op_type}
    whole = {types[name] for node in graph.node for name in node.output} & {TensorProto.INT32, TensorProto.INT64}
    assert whole <= {TensorProto.INT32}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_that_the_parser_lacks(precision: LegacyPrecision) -> None:
    proto = legacy_toy(precision)
    _check_types(proto)
    assert list(unknown_to_tensorrt8(proto)) == []
    # The other form breaks the rules in many ways, so they are no formality.
    assert len(list(unknown_to_tensorrt8(finish_onnx(narrowed_toy(precision), "where")))) > 5


# The ReferenceEvaluator has DequantizeLinear from opset 19 on only.
@pytest.mark.parametrize(
    ("precision", "runtime"),
    [(precision, runtime) for precision in PRECISIONS for runtime in RUNTIMES if (precision, runtime) != NOT_THERE],
)
def test_the_numbers_are_those_of_the_other_form(precision: LegacyPrecision, runtime: Runtime) -> None:
    legacy, current = legacy_toy(precision), finish_onnx(narrowed_toy(precision), "where", "concat")
    images = np.random.default_rng(1).standard_normal((19, 3, SIZE, SIZE)).astype(np.float32)
    images[16] = 0.0
    images[17, 1, 2, 3] = np.nan
    images[18, 0, 0, 0] = np.inf
    logits, indices = run(legacy, images, runtime)
    expected, chosen = run(current, images, runtime)
    assert indices.dtype == np.int32 and chosen.dtype == np.int64
    np.testing.assert_array_equal(indices, chosen)
    assert len(set(indices[:16, 0].tolist())) > 1
    # Quantising makes a number of a NaN, so that only the zeros still tie.
    without_choice = indices[16:17] if precision == "int8" else indices[16:]
    assert not without_choice.any()
    np.testing.assert_array_equal(logits, expected)
    finite = images[:17]
    for shift in ((1, 0), (3, 6)):
        moved = run(legacy, np.roll(finite, shift, axis=(2, 3)), runtime)[0]
        assert moved.tobytes() == run(legacy, finite, runtime)[0].tobytes()


@pytest.mark.parametrize(("name", "size"), [("resnet20_aps3", 8), ("resnet18_aps4", 32)])
def test_whole_networks_keep_their_bits(name: str, size: int) -> None:
    model, graph = traced(name, size, size, short=True)
    before = graph.SerializeToString(deterministic=True)
    narrow = with_narrow_integers(graph)
    legacy = finish_for_tensorrt8(narrow)
    assert graph.SerializeToString(deterministic=True) == before
    _check_types(legacy)
    bits = limb_bits_of_selections(narrow)
    assert len(bits) == len(model.selection_layers)
    images = np.random.default_rng(2).standard_normal((5, 3, size, size)).astype(np.float32)
    logits, indices = run(legacy, images)
    expected, chosen = run(finish_onnx(graph, "where"), images)
    assert logits.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(indices, chosen)
    for shift in ((1, 0), (0, 1), (5, 3)):
        assert run(legacy, np.roll(images, shift, axis=(2, 3)))[0].tobytes() == logits.tobytes()


def test_limbs_are_chosen_for_each_layer_by_its_map() -> None:
    _, graph = traced("resnet18_aps4", 32, 32, short=True)
    narrow = with_narrow_integers(graph)
    assert list(limb_bits_of_selections(narrow).values()) == [limb_bits(pixels) for pixels in (256, 64, 16, 4, 1)]
    with_large_maps = traced_toy()
    for dimension in with_large_maps.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = 64  # components of 1,024 pixels
    assert list(limb_bits_of_selections(with_narrow_integers(with_large_maps)).values()) == [10]


def test_maxima_and_float_norms_need_no_limbs() -> None:
    for op_type in ("PolyphaseSelect_Linf", "PolyphaseSelect_Max", "PolyphaseSelect_L2_Float"):
        graph = traced_toy()
        node = next(node for node in graph.graph.node if node.domain == "aps" and node.output[0] == "kept")
        node.op_type, node.name = op_type, f"pool/{op_type}"
        narrow = with_narrow_integers(graph)
        assert limb_bits_of_selections(narrow) == {}
        legacy = finish_for_tensorrt8(narrow)
        _check_types(legacy)
        images = np.random.default_rng(3).standard_normal((4, 3, SIZE, SIZE)).astype(np.float32)
        for got, wanted in zip(run(legacy, images), run(finish_onnx(graph, "where"), images), strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_a_file_says_what_it_is_written_for(tmp_path: Path) -> None:
    model = short_model("resnet20_aps3")
    artifact = export_onnx(model, tmp_path / "net.onnx", image_size=8, target="tensorrt-8", precision="fp16")
    document = json.loads(artifact.sidecar_path.read_text(encoding="utf-8"))["metadata"]
    (entry,) = [entry for entry in onnx.load(artifact.path).metadata_props if entry.key == METADATA_KEY]
    assert json.loads(entry.value) == document
    described = {name: document[name] for name in ("target", "opset", "circular_padding", "polyphase", "precision")}
    assert described == {
        "target": "tensorrt-8", "opset": 17, "circular_padding": "concat", "polyphase": "where", "precision": "fp16"
    }  # fmt: skip
    assert [entry["limb_bits"] for entry in document["selections"]] == [15, 15]
    assert [entry.limb_bits for entry in ModelMetadata.from_onnx(artifact.path).selections] == [15, 15]
    images = np.random.default_rng(4).standard_normal((3, 3, 8, 8)).astype(np.float32)
    with open_session(artifact.path, runtime="onnxruntime", device="cpu") as session:
        indices = session.run(images)["polyphase_indices"]
    assert indices.dtype == np.int64  # whatever the file's type
    with torch.inference_mode():
        np.testing.assert_array_equal(indices, model.forward_with_selection(torch.from_numpy(images))[1].numpy())


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"polyphase": "custom-op"}, "model-local functions.*--polyphase where"),
        ({"polyphase": "gather"}, "64-bit indices.*--polyphase where"),
        ({"precision": "bf16"}, "--precision bf16.*fp32, fp16, int8"),
        ({"opset": 20}, "opset 20.*reads 17.*--opset"),
        ({"dynamic_size": True}, "--dynamic-size.*each size"),
    ],
)
def test_what_contradicts_it_is_refused(option: dict[str, object], words: str) -> None:
    plain: dict[str, object] = {"polyphase": "where", "precision": "fp32", "opset": None, "dynamic_size": False}
    check_target_options("tensorrt-8", **plain | {"opset": 17})  # type: ignore[arg-type]
    check_target_options("current", **plain | option)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words):
        check_target_options("tensorrt-8", **plain | option)  # type: ignore[arg-type]


def test_unknown_target_offers_the_known() -> None:
    assert resolve_target("tensorrt-8") == "tensorrt-8"
    with pytest.raises(InputError, match=r"unknown target 'tensorrt8' \(did you mean tensorrt-8\?\)"):
        resolve_target("tensorrt8")


def _with_activation(op_type: str, **attributes: object) -> onnx.ModelProto:
    graph = with_narrow_integers(traced_toy())
    node = next(node for node in graph.graph.node if node.op_type == "Relu")
    node.CopyFrom(helper.make_node(op_type, node.input, node.output, name="act", **attributes))
    return graph


def test_networks_with_other_operators_are_refused_by_name() -> None:
    with pytest.raises(ApsError, match=r"act \(Gelu\).*opset 17.*leave --target out"):
        in_legacy_opset(_with_activation("Gelu"))
    with pytest.raises(ApsError, match=r"act \(Shrink\) is an operator that TensorRT 8\.5 does not have"):
        finish_for_tensorrt8(_with_activation("Shrink"))
    assert _with_activation("HardSwish").graph.node and finish_for_tensorrt8(_with_activation("HardSwish"))


def test_types_it_lacks_are_found() -> None:
    proto = legacy_toy()
    casts = [node for node in proto.graph.node if node.op_type == "Cast"]
    whole = next(node for node in casts if node.attribute[0].i == TensorProto.INT32)
    whole.attribute[0].i = TensorProto.INT64
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    assert any("int64" in message for message in unknown_to_tensorrt8(inferred))


def test_half_precision_keeps_its_islands() -> None:
    proto = finish_for_tensorrt8(in_half_precision(with_narrow_integers(traced_toy()), "fp16"))
    assert in_precision(traced_toy(), "fp32", None).graph.node  # the traced graph is as it was
    types = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    for node in proto.graph.node:
        if node.op_type in ("ReduceSumSquare", "ReduceMax", "Round", "Max"):
            assert types[node.input[0]] == TensorProto.FLOAT
        if node.op_type == "Conv":
            assert types[node.output[0]] == TensorProto.FLOAT16
