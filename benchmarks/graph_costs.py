"""What a graph costs by its shapes alone: bytes read and written, operations, and the largest memory alive at once.

Nothing runs here, so the numbers are the same on every machine. A node reads each of its inputs and writes each of its
outputs once; what only renames memory (`Reshape`, `Unsqueeze`) moves nothing, and what takes a part (`Slice`, `Gather`)
reads that part. A node of the domain `aps` is one kernel here, as in a runtime that has it, whatever its body says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import helper

Kind = Literal["convolution", "blur", "padding", "activation", "selection", "head"]
KINDS: tuple[Kind, ...] = ("convolution", "blur", "padding", "activation", "selection", "head")

_RENAMES_MEMORY = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Constant")
_TAKES_A_PART = ("Slice", "Gather", "GatherND")
_ACTIVATIONS = ("Relu", "Clip", "Add", "MaxPool")
_MOVES_ONLY = ("Pad", "Slice", "Gather", "GatherND", "Concat", "Split", "SpaceToDepth", "Transpose", "Expand", "Range")


@dataclass(frozen=True)
class NodeCost:
    """What one node costs.

    Attributes:
        name: of the node.
        operator: its type.
        kind: the part of the network it belongs to.
        bytes_read: of its inputs, weights included.
        bytes_written: of its outputs.
        operations: arithmetic ones, a multiplication and an addition being two; those of an `aps` node are not known.
    """

    name: str
    operator: str
    kind: Kind
    bytes_read: int
    bytes_written: int
    operations: int

    @property
    def bytes_moved(self) -> int:
        """Read and written."""
        return self.bytes_read + self.bytes_written


class SizedGraph:
    """A graph for a batch of a given size, with the shape and type of every value known.

    Args:
        model: an exported file; its batch may be open.
        batch: number of images.
    """

    def __init__(self, model: onnx.ModelProto, batch: int) -> None:
        sized = onnx.ModelProto()
        sized.CopyFrom(model)
        for value in (*sized.graph.input, *sized.graph.output):
            first = value.type.tensor_type.shape.dim[0]
            if first.dim_param:
                first.dim_value = batch
        del sized.graph.value_info[:]
        inferred = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
        self.nodes: Sequence[onnx.NodeProto] = inferred.node
        self.outputs = {value.name for value in inferred.output}
        self.weights = {tensor.name for tensor in inferred.initializer}
        self.maker = {name: position for position, node in enumerate(self.nodes) for name in node.output}
        self._types = {tensor.name: tensor.data_type for tensor in inferred.initializer}
        self._shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            tensor_type = value.type.tensor_type
            self._types[value.name] = tensor_type.elem_type
            # A length that only a run can tell (an index list of the batch) is a batch's.
            self._shapes[value.name] = tuple(dim.dim_value or batch for dim in tensor_type.shape.dim)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a value."""
        return self._shapes[name]

    def elements(self, name: str) -> int:
        """Return how many numbers a value has; 0 for an input that is left out."""
        return math.prod(self._shapes[name]) if name else 0

    def num_bytes(self, name: str) -> int:
        """Return the bytes of a value; 0 for an input that is left out."""
        if not name:
            return 0
        size = np.dtype(helper.tensor_dtype_to_np_dtype(self._types[name])).itemsize
        return self.elements(name) * int(size)

    def is_dense(self, node: onnx.NodeProto) -> bool:
        """Return whether a node is a convolution over all channels, which a blur is not."""
        return node.op_type == "Conv" and _groups(node) == 1


def node_costs(graph: SizedGraph) -> list[NodeCost]:
    """Return the cost of every node, in the graph's order."""
    last_convolution = max(
        (position for position, node in enumerate(graph.nodes) if node.op_type in ("Conv", "Slice")), default=-1
    )
    return [
        NodeCost(
            name=node.name,
            operator=node.op_type,
            kind="head" if position > last_convolution and node.domain == "" else _kind(node, graph),
            bytes_read=_bytes_read(node, graph),
            bytes_written=0 if node.op_type in _RENAMES_MEMORY else sum(map(graph.num_bytes, node.output)),
            operations=_operations(node, graph),
        )
        for position, node in enumerate(graph.nodes)
    ]


def moved_by_kind(costs: Iterable[NodeCost]) -> dict[Kind, int]:
    """Return the bytes moved by each part of the network."""
    found: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    for cost in costs:
        found[cost.kind] += cost.bytes_moved
    return found


def operations_by_kind(costs: Iterable[NodeCost]) -> dict[Kind, int]:
    """Return the operations of each part of the network."""
    found: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    for cost in costs:
        found[cost.kind] += cost.operations
    return found


def fewest_bytes(graph: SizedGraph) -> int:
    """Return the bytes moved if all that lies between two dense convolutions were one kernel.

    Each kernel reads what others made, and its weights, once, and writes once what others need; padding costs nothing.
    Nothing that keeps the convolutions apart can move less, unless maps stay in a cache from one kernel to the next.
    """
    kernel_of = _kernels(graph)
    read: dict[int, set[str]] = {kernel: set() for kernel in kernel_of}
    written: dict[int, set[str]] = {kernel: set() for kernel in kernel_of}
    for node, kernel in zip(graph.nodes, kernel_of, strict=True):
        written[kernel].update(graph.outputs.intersection(node.output))
        if node.op_type == "Pad":
            continue
        for name in filter(None, node.input):
            source = _unpadded(name, graph)
            maker = graph.maker.get(source)
            if maker is None or kernel_of[maker] != kernel:
                read[kernel].add(source)
                if maker is not None:
                    written[kernel_of[maker]].add(source)
    return sum(graph.num_bytes(name) for names in (*read.values(), *written.values()) for name in names)


def largest_alive(graph: SizedGraph) -> int:
    """Return the most bytes of maps that are needed at one time, if the nodes run in the graph's order.

    A map lives from the node that makes it to the last that reads it, under whatever name. Weights are not counted, nor
    what a runtime needs inside a node, nor the input images before their first use.
    """
    owner: dict[str, str] = {}
    for node in graph.nodes:
        for name in node.output:
            first = node.input[0] if node.input else ""
            owner[name] = owner.get(first, first) if node.op_type in _RENAMES_MEMORY and first else name
    last_use = {owner.get(name, name): position for position, node in enumerate(graph.nodes) for name in node.input}
    last_use |= {owner[name]: len(graph.nodes) for name in graph.outputs}
    alive: set[str] = set()
    largest = 0
    for position, node in enumerate(graph.nodes):
        alive |= {owner.get(name, name) for name in (*node.input, *node.output) if name and name not in graph.weights}
        largest = max(largest, sum(map(graph.num_bytes, alive)))
        alive = {name for name in alive if last_use.get(name, -1) > position}
    return largest


def _kind(node: onnx.NodeProto, graph: SizedGraph) -> Kind:
    if node.op_type == "Conv":
        return "convolution" if graph.is_dense(node) else "blur"
    if node.op_type == "Pad":
        return "padding"
    return "activation" if node.op_type in _ACTIVATIONS else "selection"


def _bytes_read(node: onnx.NodeProto, graph: SizedGraph) -> int:
    if node.op_type in _RENAMES_MEMORY:
        return 0
    if node.op_type in _TAKES_A_PART:
        return sum(map(graph.num_bytes, node.output))
    return sum(map(graph.num_bytes, node.input))


def _operations(node: onnx.NodeProto, graph: SizedGraph) -> int:
    if node.domain or node.op_type in (*_RENAMES_MEMORY, *_MOVES_ONLY):
        return 0
    made = sum(map(graph.elements, node.output))
    if node.op_type == "Conv":
        return 2 * made * math.prod(graph.shape(node.input[1])[1:])
    if node.op_type in ("Gemm", "MatMul"):
        return 2 * made * graph.shape(node.input[0])[-1]
    if node.op_type == "MaxPool":
        return made * int(math.prod(next(a.ints for a in node.attribute if a.name == "kernel_shape")))
    if node.op_type.startswith("Reduce"):
        per_element = 2 if node.op_type in ("ReduceSumSquare", "ReduceL2") else 1
        return per_element * graph.elements(node.input[0])
    return max(made, graph.elements(node.input[0])) if node.op_type == "ArgMax" else made


def _groups(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def _kernels(graph: SizedGraph) -> list[int]:
    """Return which kernel each node is in, by position: a dense convolution alone, others with their neighbours.

    Neighbours are in one kernel only where equally many convolutions lie before them: a shortcut does not join what
    stands on both sides of a block.
    """
    depth: dict[str, int] = {}
    kernel = list(range(len(graph.nodes)))

    def root(position: int) -> int:
        while kernel[position] != position:
            position = kernel[position]
        return position

    for position, node in enumerate(graph.nodes):
        here = max((depth.get(name, 0) for name in node.input), default=0) + graph.is_dense(node)
        depth.update(dict.fromkeys(node.output, here))
        if graph.is_dense(node):
            continue
        for name in node.input:
            maker = graph.maker.get(name)
            if maker is not None and not graph.is_dense(graph.nodes[maker]) and depth[name] == here:
                kernel[root(position)] = root(maker)
    return [root(position) for position in kernel]


def _unpadded(name: str, graph: SizedGraph) -> str:
    """Return the value that a node would read if it padded by itself."""
    maker = graph.maker.get(name)
    is_padded = maker is not None and graph.nodes[maker].op_type == "Pad"
    return graph.nodes[maker].input[0] if maker is not None and is_padded else name
