"""Writes the body of an ONNX function, node by node.

Every name inside a body carries a prefix: some TensorRT parsers look values up by name across the whole model, so a
body must not use a name that the graph around it could use as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from aps_deploy.export.op_names import DOMAIN

PREFIX = "aps__"


# From this version on reductions take their axes as an input and a split says how many parts it makes.
_AXES_AS_INPUT = 18


class BodyWriter:
    """Collects nodes; each method returns the name of the value it made.

    Args:
        results: Names of the function's outputs; a value of one of these names keeps it, every other gets a prefix.
        opset: Version of the standard operators.
        index_dtype: Of indices and of the constants that they are computed with.
    """

    def __init__(self, results: Sequence[str], *, opset: int, index_dtype: type[np.integer[Any]] = np.int64) -> None:
        self._results = tuple(results)
        self._opset = opset
        self._index_dtype = index_dtype
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def op(
        self,
        op_type: str,
        inputs: Sequence[str],
        name: str,
        *,
        references: Mapping[str, str] | None = None,
        **attributes: Any,
    ) -> str:
        """Add a node with one output called ``name``.

        Args:
            op_type: A standard operator.
            inputs: Names of the values it takes.
            name: What it makes.
            references: Attributes that take their value from the function's node: its attribute's name, by name.
            attributes: Attributes with their values.
        """
        output = self.multi(op_type, inputs, [name], **attributes)[0]
        for attribute, of_function in (references or {}).items():
            kind: Any = onnx.defs.get_schema(op_type).attributes[attribute].type
            self._nodes[-1].attribute.add(name=attribute, ref_attr_name=of_function, type=int(kind))
        return output

    def multi(self, op_type: str, inputs: Sequence[str], names: Sequence[str], **attributes: Any) -> list[str]:
        """Add a node with one output for each of ``names``."""
        outputs = [name if name in self._results else PREFIX + name for name in names]
        self._nodes.append(helper.make_node(op_type, list(inputs), outputs, **attributes))
        return outputs

    def reduce(self, op_type: str, value: str, axes: Sequence[int], name: str, *, keepdims: int) -> str:
        """Add a reduction of ``value`` over ``axes``."""
        if op_type == "ReduceSum" or self._opset >= _AXES_AS_INPUT:  # ReduceSum alone since version 13
            return self.op(op_type, [value, self.integers(*axes)], name, keepdims=keepdims)
        return self.op(op_type, [value], name, axes=list(axes), keepdims=keepdims)

    def split(self, value: str, names: Sequence[str], *, axis: int) -> list[str]:
        """Add a split of ``value`` into equal parts."""
        number = {"num_outputs": len(names)} if self._opset >= _AXES_AS_INPUT else {}
        return self.multi("Split", [value], names, axis=axis, **number)

    def integers(self, *values: int, scalar: bool = False) -> str:
        """Return an int64 constant, one-dimensional unless ``scalar``; equal constants are written once."""
        return self.array(np.asarray(values[0] if scalar else values, dtype=np.int64))

    def index(self, *values: int, scalar: bool = False) -> str:
        """Return a constant of the type of indices, one-dimensional unless ``scalar``."""
        return self.array(np.asarray(values[0] if scalar else values, dtype=self._index_dtype))

    def whole32(self, value: int) -> str:
        """Return an int32 scalar constant."""
        return self.array(np.asarray(value, dtype=np.int32))

    def real(self, value: float) -> str:
        """Return a float32 scalar constant."""
        return self.array(np.asarray(value, dtype=np.float32))

    def array(self, array: npt.NDArray[Any]) -> str:
        """Return a constant of the array's type and shape."""
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            tensor = numpy_helper.from_array(array, PREFIX + name)
            self._constants[key] = self.op("Constant", [], name, value=tensor)
        return self._constants[key]

    def function(self, op_type: str, inputs: Sequence[str], *, attributes: Sequence[str] = ()) -> onnx.FunctionProto:
        """Return the function holding the nodes written so far."""
        return helper.make_function(
            DOMAIN,
            op_type,
            list(inputs),
            list(self._results),
            self._nodes,
            [helper.make_opsetid("", self._opset)],
            attributes=list(attributes),
        )
