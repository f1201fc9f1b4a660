"""A read-only view of an ONNX graph: who makes a value, of which type and shape, and which values are constant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Shape = tuple[int | None, ...]

# They leave a constant one.
_SEEN_THROUGH = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")


class GraphView:
    """An inlined ONNX model, indexed by value name.

    Args:
        model: without model-local functions; its types and shapes are inferred here.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        inferred = _with_inferred_types(model)
        self.nodes: Sequence[onnx.NodeProto] = inferred.graph.node
        self.inputs = {value.name for value in inferred.graph.input}
        self.outputs = [value.name for value in inferred.graph.output]
        self._maker = {name: node for node in self.nodes for name in node.output if name}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._constants = {tensor.name: tensor for tensor in inferred.graph.initializer}
        for node in self.nodes:
            tensor = _constant_of(node)
            if tensor is not None:
                self._constants[node.output[0]] = tensor
        self._types = {name: tensor.data_type for name, tensor in self._constants.items()}
        self._shapes: dict[str, Shape] = {name: tuple(tensor.dims) for name, tensor in self._constants.items()}
        for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
            tensor_type = value.type.tensor_type
            self._types.setdefault(value.name, tensor_type.elem_type)
            if tensor_type.HasField("shape"):
                dims = tensor_type.shape.dim
                shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
                self._shapes.setdefault(value.name, shape)

    def maker(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes the value ``name``; None for inputs and initializers."""
        return self._maker.get(name)

    def readers(self, name: str) -> Sequence[onnx.NodeProto]:
        """Return the nodes that read the value ``name``."""
        return self._readers.get(name, ())

    def has_value(self, name: str) -> bool:
        """Return whether a node makes the value ``name``."""
        return name in self._maker

    def element_type(self, name: str) -> int:
        """Return the ``onnx.TensorProto`` element type of a value, 0 where it could not be inferred."""
        return int(self._types.get(name, 0))

    def shape(self, name: str) -> Shape | None:
        """Return the shape of a value, None for unknown sizes; None where not even the rank is known."""
        return self._shapes.get(name)

    def is_constant(self, name: str) -> bool:
        """Return whether a value is an initializer or a Constant node's, also behind what `constant` looks through."""
        node = self.maker(name)
        while name not in self._constants and node is not None and node.op_type in _SEEN_THROUGH:
            name = node.input[0]
            node = self.maker(name)
        return name in self._constants

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """Return the value of an initializer or Constant node, also behind a Cast, Identity, Reshape or Unsqueeze."""
        if name in self._constants:
            return _array_of(self._constants[name])
        node = self.maker(name)
        if node is not None and node.op_type in _SEEN_THROUGH:
            return self.constant(node.input[0])
        return None

    def upstream(
        self,
        start: str,
        stops: Callable[[GraphView, onnx.NodeProto], bool] | None = None,
        *,
        data_only: bool = False,
    ) -> Iterator[onnx.NodeProto]:
        """Yield every node that ``start`` depends on, each once.

        Args:
            start: name of a value.
            stops: true for a node that is neither yielded nor passed.
            data_only: do not follow conditions of Where and indices of Gather: what is chosen, not who chose it.
        """
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            node = self.maker(waiting.pop())
            if node is None or node.output[0] in seen or (stops is not None and stops(self, node)):
                continue
            seen.add(node.output[0])
            yield node
            if data_only and node.op_type == "Where":
                waiting.extend(node.input[1:])
            elif data_only and node.op_type.startswith("Gather"):
                waiting.append(node.input[0])
            else:
                waiting.extend(node.input)


def _with_inferred_types(model: onnx.ModelProto) -> onnx.ModelProto:
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    # What the file says of its inner values is a claim; in an edited graph it is stale and makes inference fail.
    del bare.graph.value_info[:]
    try:
        # data_prop follows shapes through Shape, Gather and Concat, so that reshaped maps keep their channel count.
        return onnx.shape_inference.infer_shapes(bare, data_prop=True)
    except Exception:  # InferenceError mostly; a damaged model makes the C++ behind it raise other things
        # Types stay unknown then, which the rules count as a fault and not as a pass.
        return bare


def _array_of(tensor: onnx.TensorProto) -> npt.NDArray[Any] | None:
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (KeyError, TypeError, ValueError):
        return None  # damaged, so nothing is known of it


def _constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return what a Constant node holds: a tensor, or numbers in its attributes; None for other nodes and for text."""
    if node.op_type != "Constant" or not node.attribute:
        return None
    entry = node.attribute[0]
    kind = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    tensor: onnx.TensorProto
    if entry.name == "value":
        tensor = entry.t
    elif entry.name in kind:
        tensor = numpy_helper.from_array(np.asarray(onnx.helper.get_attribute_value(entry), kind[entry.name]))
    else:
        return None
    return tensor


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return an attribute of ``node`` as a Python value (strings decoded), or ``default``."""
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            return value.decode(errors="replace") if isinstance(value, bytes) else value
    return default


def reduced_axes(graph: GraphView, node: onnx.NodeProto) -> tuple[int, ...] | None:
    """Return the axes a Reduce* node reduces, non-negative; None where they are not known."""
    rank = len(graph.shape(node.input[0]) or ())
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        constant = graph.constant(node.input[1])
        if constant is None:
            return None
        axes = constant.reshape(-1).tolist()
    if axes is None:
        return tuple(range(rank)) if rank and not attribute(node, "noop_with_empty_axes", 0) else None
    if any(axis < 0 for axis in axes) and not rank:
        return None
    return tuple(sorted(int(axis) % rank if rank else int(axis) for axis in axes))
