from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto

from aps_deploy.errors import InputError
from aps_deploy.verification.probe.probing import probe_file
from aps_deploy.verification.probe.result import ProbeResult
from tests.verification.probe.graphs import (
    CHANNELS,
    HEAD,
    conv,
    make_images,
    node,
    selection,
    sliced_padding,
    wrapped,
    write,
)

BRANCHES = [
    *wrapped("images", "before"),
    *selection("before", "large"),
    *selection("before", "small", smallest=True),
]
EQUIVARIANT = {
    "circular convolution": [*wrapped("images", "map"), *HEAD],
    "padding by slices": [*sliced_padding("images", "padded"), conv("padded", "map"), *HEAD],
    "selection of another tool": [*wrapped("images", "before"), *selection("before", "map"), *HEAD],
    "two selections in a row": [*selection("images", "half"), *selection("half", "quarter"),
                                node("Relu", ["quarter"], "map"), *HEAD],
    "two maps by one choice": [
        *wrapped("images", "before"), *selection("before", "large"), node("Neg", ["before"], "other"),
        *[node("Slice", ["other", f"from_{dy}{dx}", "ends", "spatial", "steps"], f"other_{dy}{dx}")
          for dx in (0, 1) for dy in (0, 1)],
        *[node("Unsqueeze", [f"other_{dy}{dx}", "last"], f"other_row_{dy}{dx}") for dx in (0, 1) for dy in (0, 1)],
        node("Concat", [f"other_row_{dy}{dx}" for dx in (0, 1) for dy in (0, 1)], "other_stack", axis=0),
        node("Gather", ["other_stack", "large_index"], "taken", axis=0), node("Sub", ["large", "taken"], "map"), *HEAD,
    ],
    "flat maps": [
        *wrapped("images", "wide"), node("Transpose", ["wide"], "turned", perm=[0, 2, 3, 1]),
        node("Transpose", ["turned"], "map", perm=[0, 3, 1, 2]), *HEAD,
    ],
    "enlarged by repeating": [
        *wrapped("images", "small"), node("Concat", ["small"] * 4, "fourfold", axis=1),
        node("DepthToSpace", ["fourfold"], "map", blocksize=2), *HEAD,
    ],
}  # fmt: skip
BROKEN: dict[str, tuple[list[NodeProto], str, str, str]] = {
    "stride": ([*wrapped("images", "map")[:1], conv("map_padded", "map", strides=[2, 2]), *HEAD],
               "map_Conv", "grid", "stride 2"),
    "pooling with a stride": (
        [*wrapped("images", "wide"), node("MaxPool", ["wide"], "map", kernel_shape=[2, 2], strides=[2, 2]), *HEAD],
        "map_MaxPool", "grid", "stride 2"),
    "zeros": ([conv("images", "map", pads=[1, 1, 1, 1]), *HEAD], "map_Conv", "padding", "pads with zeros"),
    "no padding": ([conv("images", "map"), *HEAD], "map_Conv", "border", "loses 2x2"),
    "reflection": ([node("Pad", ["images", "pads"], "padded", mode="reflect"), conv("padded", "map"), *HEAD],
                   "padded_Pad", "padding", "mode reflect"),
    "one fixed component": (
        [*wrapped("images", "wide"), node("Slice", ["wide", "from_01", "ends", "spatial", "steps"], "map"), *HEAD],
        "map_Slice", "grid", "nothing chooses"),
    "pixels put in channels": (
        [*wrapped("images", "wide"), node("SpaceToDepth", ["wide"], "map", blocksize=2), *HEAD],
        "map_SpaceToDepth", "grid", "nothing chooses"),
    "numbers for places": ([*wrapped("images", "wide"), node("Add", ["wide", "places"], "map"), *HEAD],
                           "map_Add", "position", "places"),
    "a product over places": ([*wrapped("images", "map"), node("Flatten", ["map"], "flat"),
                               node("Gemm", ["flat", "gemm"], "logits")], "logits_Gemm", "position", "weights"),
    "branches at two phases": ([*BRANCHES, node("Add", ["large", "small"], "map"), *HEAD],
                               "map_Add", "branches", "moved apart"),
    "a fixed shortcut": (
        [*wrapped("images", "before"), *selection("before", "large"),
         node("Slice", ["before", "from_00", "ends", "spatial", "steps"], "fixed"),
         node("Add", ["large", "fixed"], "sum"), node("Conv", ["sum", "again3"], "map"), *HEAD],
        "fixed_Slice", "grid", "nothing chooses"),
}  # fmt: skip


def _probed(nodes: list[NodeProto], folder: Path, **options: object) -> ProbeResult:
    return probe_file(write(nodes, folder / "graph.onnx"), make_images(2), num_threads=1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_nothing_is_found_in_an_equivariant_graph(name: str, tmp_path: Path) -> None:
    result = _probed(EQUIVARIANT[name], tmp_path)
    assert result.findings == ()
    assert result.exit_code == 0
    assert result.num_checked > 0


@pytest.mark.parametrize("name", BROKEN)
def test_the_first_operator_that_breaks_the_promise_is_named(name: str, tmp_path: Path) -> None:
    nodes, first, kind, words = BROKEN[name]
    result = _probed(nodes, tmp_path)
    assert result.first is not None
    assert (result.first.node, result.first.kind) == (first, kind), result.first.sentence()
    assert words in result.first.reason
    assert result.first.images == 2
    assert result.exit_code == 1


@pytest.mark.parametrize("runtime", ["onnxruntime", "onnx-reference"])
def test_a_float_mean_over_a_map_is_found_by_its_bits(runtime: str, tmp_path: Path) -> None:
    nodes = [*wrapped("images", "map"), node("ReduceMean", ["map", "spatial"], "logits", keepdims=0)]
    result = _probed(nodes, tmp_path, runtime=runtime)
    assert result.first is not None
    assert (result.first.op_type, result.first.kind) == ("ReduceMean", "order")
    assert result.first.max_abs_difference is not None and 0 < result.first.max_abs_difference < 1e-5


def test_an_integer_sum_over_a_map_is_none(tmp_path: Path) -> None:
    nodes = [
        *wrapped("images", "map"),
        node("Cast", ["map"], "whole", to=TensorProto.INT64),
        node("ReduceSum", ["whole", "spatial"], "total", keepdims=0),
        node("Cast", ["total"], "logits", to=TensorProto.FLOAT),
    ]
    assert _probed(nodes, tmp_path).first is None


def test_all_operators_are_judged_and_not_only_the_first(tmp_path: Path) -> None:
    nodes = [
        *wrapped("images", "wide"),
        node("MaxPool", ["wide"], "half", kernel_shape=[2, 2], strides=[2, 2]),
        node("Relu", ["half"], "positive"),
        conv("positive", "map", "again3", pads=[1, 1, 1, 1]),
        *HEAD,
    ]
    result = _probed(nodes, tmp_path)
    found = [(finding.op_type, finding.kind) for finding in result.findings]
    assert found == [("MaxPool", "grid"), ("Conv", "padding")]
    assert result.findings[1].input_shapes == ((1, CHANNELS, 4, 4),)


def test_what_nobody_reads_is_not_judged(tmp_path: Path) -> None:
    unread = node("MaxPool", ["map"], "unread", kernel_shape=[2, 2], strides=[2, 2])
    assert _probed([*wrapped("images", "map"), *HEAD, unread], tmp_path).findings == ()


def test_a_shift_of_the_image_moves_deeper_maps_by_as_much_as_they_must(tmp_path: Path) -> None:
    nodes = BROKEN["pooling with a stride"][0]
    # By a multiple of the stride an ordinary network moves along.
    assert _probed(nodes, tmp_path, shift=(2, 4)).first is None
    found = _probed(nodes, tmp_path, shift=(2, 3)).first
    assert found is not None and (found.op_type, found.shift) == ("MaxPool", (2, 3))


def test_no_images_and_checkpoints_are_refused(tmp_path: Path) -> None:
    path = write(EQUIVARIANT["circular convolution"], tmp_path / "graph.onnx")
    with pytest.raises(InputError, match="no images"):
        probe_file(path, make_images(0))
    with pytest.raises(InputError, match="export it first"):
        probe_file("resnet20_aps3.cifar10", make_images(1))
    with pytest.raises(InputError, match="8x8"):
        probe_file(path, make_images(1, size=9))


def test_the_result_is_json_with_the_first_finding(tmp_path: Path) -> None:
    result = _probed(BROKEN["zeros"][0], tmp_path)
    document = result.to_dict()
    assert document["equivariant"] is False
    assert document["first"] == document["findings"][0]
    assert document["first"]["output_shape"] == [1, CHANNELS, 8, 8]
    assert result.save(tmp_path / "graph.probe.json").read_text(encoding="utf-8").count('"node"') == 2
    assert np.isfinite(document["first"]["differing_percent"])
