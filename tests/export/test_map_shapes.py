"""Shapes of maps in a graph of custom operators."""

from __future__ import annotations

import onnx

from aps_deploy.export.forms import attach_bodies
from aps_deploy.export.map_shapes import map_shapes
from tests.export.support import exported, traced


def test_every_map_that_a_selection_reads_has_its_channels_and_size() -> None:
    _, graph = traced("resnet18_aps3", 64, 64, short=True)
    shapes = map_shapes(attach_bodies(graph, "where"))
    read = [shapes[node.input[0]] for node in graph.graph.node if node.op_type.startswith("PolyphaseSelect")]
    assert sorted(read) == [(64, 32, 32), (64, 64, 64), (128, 16, 16), (256, 8, 8), (512, 4, 4)]


def test_unknown_sides_are_0_and_the_graph_is_not_changed() -> None:
    _, proto = exported("resnet18_aps3", 32, "custom-op", short=True)
    free = onnx.ModelProto.FromString(proto.SerializeToString())
    for dimension, name in zip(free.graph.input[0].type.tensor_type.shape.dim[2:], "HW", strict=True):
        dimension.dim_param = name
    before = free.SerializeToString()
    assert map_shapes(free)[free.graph.input[0].name] == (3, 0, 0)
    assert free.SerializeToString() == before
