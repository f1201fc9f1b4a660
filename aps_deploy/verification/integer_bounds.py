"""Can 32-bit whole numbers of a graph overflow? Bounds that follow from the operators alone, for every image.

A runtime that adds beyond 2**31 wraps around without a word, and friendly images would not show it. So 32-bit sums
count as exact only where no input at all could make them overflow. Nothing is assumed of a number that is cast to
int32 but that it fits; what divisions leave of it, and how many of those are added, is read off the graph.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from aps_deploy.verification.graph import GraphView, reduced_axes

INT32_MAX = 2**31 - 1

# They hand numbers on; every output is made of numbers of the inputs at these positions (None: of all inputs).
_HANDED_ON: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Abs", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Neg"), (0,)),
    **dict.fromkeys(("Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"), (0,)),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), (0,)),
    **dict.fromkeys(("Concat", "Max", "Min"), None),
    "Where": (1, 2),
}


class Int32Bounds:
    """The largest magnitudes that int32 values of a graph can have.

    Args:
        graph: its types and shapes are inferred.
    """

    def __init__(self, graph: GraphView) -> None:
        self._graph = graph
        self._known: dict[str, int | None] = {}

    def overflows(self, node: onnx.NodeProto) -> bool:
        """Return whether a node that makes int32 values may make one beyond them, as far as can be told."""
        if self._graph.element_type(node.output[0]) != TensorProto.INT32:
            return False
        largest = self.largest(node.output[0])
        return largest is None or largest > INT32_MAX

    def largest(self, name: str) -> int | None:
        """Return a number that no magnitude of the value ``name`` exceeds; None where there is no telling."""
        if name not in self._known:
            self._known[name] = None  # of a graph with a cycle nothing can be told
            self._known[name] = self._computed(name)
        return self._known[name]

    def _computed(self, name: str) -> int | None:
        constant, node = self._graph.constant(name), self._graph.maker(name)
        if constant is not None:
            return int(np.abs(constant.astype(np.float64)).max(initial=0)) if constant.dtype.kind in "iub" else None
        if node is None or node.op_type == "Cast":
            return INT32_MAX
        if node.op_type in _HANDED_ON:
            positions = _HANDED_ON[node.op_type] or range(len(node.input))
            return _largest([self.largest(node.input[position]) for position in positions])
        if node.op_type == "ReduceSum":
            return _product(self.largest(node.input[0]), self._number_of_terms(node))
        if node.op_type in ("Add", "Sub", "Mul", "Div", "Mod"):
            return self._of_two(node)
        return None

    def _number_of_terms(self, node: onnx.NodeProto) -> int | None:
        axes, shape = reduced_axes(self._graph, node), self._graph.shape(node.input[0])
        if axes is None or shape is None:
            return None
        sides = [side for axis in axes if (side := shape[axis]) is not None]
        return math.prod(sides) if len(sides) == len(axes) else None

    def _of_two(self, node: onnx.NodeProto) -> int | None:
        left, right = (self.largest(name) for name in node.input)
        divisor = self._divisor(node.input[1])
        if node.op_type == "Mod":
            return None if divisor is None else divisor - 1
        if node.op_type == "Div":
            # One more, because some runtimes round down where others cut off.
            return None if left is None or divisor is None else left // divisor + 1
        if node.op_type == "Mul":
            whole = self._dividend_of_multiple(node)
            return _product(left, right) if whole is None else self.largest(whole)
        if node.op_type == "Sub" and (remainder := self._remainder(node)) is not None:
            return remainder
        return None if left is None or right is None else left + right

    def _divisor(self, name: str) -> int | None:
        """Return the one positive whole number that ``name`` holds; None where it holds another or several."""
        constant = self._graph.constant(name)
        if constant is None or constant.size != 1 or constant.dtype.kind not in "iu" or constant.item() < 1:
            return None
        return int(constant.item())

    def _dividend_of_multiple(self, node: onnx.NodeProto) -> str | None:
        """Return x of ``(x / c) * c``: the largest multiple of c that x holds, which is no larger than x."""
        division = self._graph.maker(node.input[0])
        if division is None or division.op_type != "Div":
            return None
        divisor = self._divisor(node.input[1])
        return division.input[0] if divisor is not None and divisor == self._divisor(division.input[1]) else None

    def _remainder(self, node: onnx.NodeProto) -> int | None:
        """Return the bound of ``x - (x / c) * c``, which is what a division leaves."""
        multiple = self._graph.maker(node.input[1])
        if multiple is None or multiple.op_type != "Mul" or self._dividend_of_multiple(multiple) != node.input[0]:
            return None
        divisor = self._divisor(multiple.input[1])
        return None if divisor is None else divisor - 1


def _largest(bounds: list[int | None]) -> int | None:
    known = [bound for bound in bounds if bound is not None]
    return max(known) if known and len(known) == len(bounds) else None


def _product(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left * right
