"""Costs of small graphs counted by hand, and relations that hold for any network."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from benchmarks import floor
from benchmarks.graph_costs import (
    SizedGraph,
    fewest_bytes,
    largest_alive,
    moved_by_kind,
    node_costs,
    operations_by_kind,
)
from benchmarks.layer_alone import LayerSetting
from benchmarks.networks import Setting, exported

FLOAT = TensorProto.FLOAT


def _network() -> onnx.ModelProto:
    """Pad, 3x3 convolution of 2 to 4 channels, ReLU, depthwise 1x1, of N x 2 x 6 x 6."""
    weights = [
        helper.make_tensor("w", FLOAT, (4, 2, 3, 3), [0.0] * 72),
        helper.make_tensor("b", FLOAT, (4, 1, 1, 1), [1.0] * 4),
        helper.make_tensor("pads", TensorProto.INT64, (8,), [0, 0, 1, 1, 0, 0, 1, 1]),
    ]
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"], mode="wrap"),
        helper.make_node("Conv", ["padded", "w"], ["made"]),
        helper.make_node("Relu", ["made"], ["positive"]),
        helper.make_node("Conv", ["positive", "b"], ["y"], group=4),
    ]
    images = helper.make_tensor_value_info("x", FLOAT, ("batch", 2, 6, 6))
    result = helper.make_tensor_value_info("y", FLOAT, ("batch", 4, 6, 6))
    graph = helper.make_graph(nodes, "small", [images], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


X, PADDED, MAP, W, B, PADS = 3 * 2 * 36 * 4, 3 * 2 * 64 * 4, 3 * 4 * 36 * 4, 72 * 4, 4 * 4, 8 * 8


def test_every_node_reads_its_inputs_and_writes_its_outputs_once() -> None:
    costs = node_costs(SizedGraph(_network(), batch=3))
    assert [(cost.kind, cost.bytes_read, cost.bytes_written) for cost in costs] == [
        ("padding", X + PADS, PADDED),
        ("convolution", PADDED + W, MAP),
        ("activation", MAP, MAP),
        ("blur", MAP + B, MAP),
    ]
    assert moved_by_kind(costs)["blur"] == 2 * MAP + B


def test_a_multiplication_and_an_addition_are_two_operations() -> None:
    found = operations_by_kind(node_costs(SizedGraph(_network(), batch=3)))
    elements = 3 * 4 * 36
    assert found["convolution"] == 2 * elements * 18
    assert (found["blur"], found["activation"], found["padding"]) == (2 * elements, elements, 0)


def test_the_fewest_bytes_are_those_of_two_kernels() -> None:
    # The convolution pads by itself; ReLU and blur are one kernel, whose inner map is never written.
    assert fewest_bytes(SizedGraph(_network(), batch=3)) == (X + W) + MAP + (MAP + B) + MAP


def test_a_map_lives_until_it_is_read_for_the_last_time() -> None:
    assert largest_alive(SizedGraph(_network(), batch=3)) == max(X + PADDED, PADDED + MAP, 2 * MAP)


def test_what_only_renames_memory_costs_nothing() -> None:
    model = _network()
    model.graph.node.append(helper.make_node("Identity", ["y"], ["z"]))
    model.graph.output[0].name = "z"
    before, after = SizedGraph(_network(), batch=2), SizedGraph(model, batch=2)
    assert node_costs(after)[-1].bytes_moved == 0
    assert largest_alive(after) == largest_alive(before)
    assert fewest_bytes(after) == fewest_bytes(before)


@pytest.mark.parametrize("name", ["aps", "aps_custom_op", "authors"])
def test_a_layer_moves_no_less_than_it_must(name: str) -> None:
    setting = LayerSetting.parse("8x12x12:3")
    graph = SizedGraph(setting.exported(name), setting.batch)
    maps = 3 * 8 * 144 * 4
    moved = sum(cost.bytes_moved for cost in node_costs(graph))
    # One kernel: the maps in, a quarter of them out, and constants beside them.
    fewest = range(maps * 5 // 4, maps * 5 // 4 + 2000)
    if name == "aps_custom_op":
        assert moved in fewest
    else:
        assert moved > 2 * maps
        assert fewest_bytes(graph) in fewest


def test_the_batch_scales_maps_but_not_weights() -> None:
    torch.manual_seed(0)
    model = exported(Setting.parse("resnet20_aps3:16:1").networks()["aps"], 16)
    one, four = SizedGraph(model, 1), SizedGraph(model, 4)
    by_batch = [operations_by_kind(node_costs(graph)) for graph in (one, four)]
    assert by_batch[1]["convolution"] == 4 * by_batch[0]["convolution"]
    assert largest_alive(four) == pytest.approx(4 * largest_alive(one), rel=0.01)
    assert fewest_bytes(four) < 4 * fewest_bytes(one)


def test_the_page_holds_the_tables_of_the_kept_result() -> None:
    import json

    measured = json.loads(floor.RESULTS.read_text())["measured"]
    page = floor.PAGE.read_text(encoding="utf-8")
    assert floor.with_tables(page, floor.tables(measured)) == page
