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


class BodyWriter:
    """Collects nodes; each method returns the name of the value it made.

    Args:
        results: Names of the function's outputs; a value of one of these names keeps it, every other gets a prefix.
    """

    def __init__(self, results: Sequence[str]) -> None:
        self._results = tuple(results)
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

    def integers(self, *values: int, scalar: bool = False) -> str:
        """Return an int64 constant, one-dimensional unless ``scalar``; equal constants are written once."""
        return self.array(np.asarray(values[0] if scalar else values, dtype=np.int64))

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

    def function(
        self, op_type: str, inputs: Sequence[str], *, opset: int, attributes: Sequence[str] = ()
    ) -> onnx.FunctionProto:
        """Return the function holding the nodes written so far."""
        return helper.make_function(
            DOMAIN,
            op_type,
            list(inputs),
            list(self._results),
            self._nodes,
            [helper.make_opsetid("", opset)],
            attributes=list(attributes),
        )
