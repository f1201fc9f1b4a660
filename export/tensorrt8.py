"""Files for TensorRT 8.5 to 9, the newest that JetPack 5 has for Jetson: ``aps-deploy export --target tensorrt-8``.

That parser reads opset 17, has no ``Pad`` of mode ``wrap``, no model-local functions (from 9 on) and no whole numbers
of more than 32 bits (from 10 on): it turns int64 values into int32, where the sums of exact selection overflow. So:

* sums and indices of 32 bits, with the same choices and the same means, see `limbs` and `narrow_integers`;
* circular padding by slices and concatenations, see `circular_padding`;
* standard operators only, and of those only what that parser has, which `check_operators` makes sure of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import onnx
from onnx import TensorProto

from aps_deploy.errors import ApsError, InputError, known_name
from aps_deploy.export.tensorrt8_operators import TYPES_BY_OPERATOR, VALUE_TYPES

Target = Literal["current", "tensorrt-8"]
TARGETS: tuple[Target, ...] = get_args(Target)

LEGACY_OPSET = 17
_IR_VERSION = 8  # of onnx 1.12, which has opset 17
_PRECISIONS = ("fp32", "fp16", "int8")
# Since opset 18 they take more types or attributes; without those they mean what they meant in 17.
_WIDENED = {"AveragePool", "Cast", "Constant", "DequantizeLinear", "Equal", "Identity", "QuantizeLinear", "Reshape"}


def resolve_target(name: str) -> Target:
    """Return ``name`` as one of the targets.

    Raises:
        InputError: no such target.
    """
    return known_name(name, TARGETS, "target")


def check_target_options(
    target: Target, *, polyphase: str, precision: str, opset: int | None, dynamic_size: bool
) -> None:
    """Refuse what contradicts the target ``tensorrt-8``; the other one takes everything.

    Raises:
        InputError: an option that TensorRT 8 has nothing for.
    """
    if target == "current":
        return
    if polyphase != "where":
        reason = {"custom-op": "reads no model-local functions", "gather": "has no 64-bit indices for GatherND"}
        raise InputError(
            f"--polyphase {polyphase} is not written for TensorRT 8, which {reason.get(polyphase, 'lacks it')}; use "
            "--polyphase where."
        )
    if precision not in _PRECISIONS:
        raise InputError(
            f"--precision {precision} is not written for TensorRT 8, which does not have it; use one of "
            f"{', '.join(_PRECISIONS)}."
        )
    if opset not in (None, LEGACY_OPSET):
        raise InputError(
            f"opset {opset} is not written for TensorRT 8, whose parser reads {LEGACY_OPSET}; leave --opset out."
        )
    if dynamic_size:
        raise InputError(
            "--dynamic-size is not written for TensorRT 8: its 32-bit sums are cut to the number of pixels; export one "
            "file for each size (the batch is open in each)."
        )


def in_legacy_opset(traced: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph of `trace_onnx`, which is not changed, in opset 17, but for pads of mode ``wrap``, which go later.

    Raises:
        ApsError: an operator means something else there, or does not exist.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(traced)
    (standard,) = [entry for entry in proto.opset_import if not entry.domain]
    for node in proto.graph.node:
        if not node.domain and node.op_type != "Pad" and not _is_in_legacy_opset(node.op_type, standard.version):
            raise ApsError(
                f"{_name(node)} is an operator that opset {LEGACY_OPSET} does not have in this form, so the network "
                "cannot be written for TensorRT 8; leave --target out."
            )
    standard.version = LEGACY_OPSET
    proto.ir_version = _IR_VERSION
    return proto


def _is_in_legacy_opset(op_type: str, opset: int) -> bool:
    since: int = onnx.defs.get_schema(op_type, opset).since_version
    return since <= LEGACY_OPSET or op_type in _WIDENED


def check_operators(proto: onnx.ModelProto) -> None:
    """Refuse a finished graph with an operator, or a type of one, that the parser of TensorRT 8.5 lacks.

    Raises:
        ApsError: the message names the node.
    """
    for message in unknown_to_tensorrt8(proto):
        raise ApsError(f"{message}, so the network cannot be written for TensorRT 8; leave --target out.")


def unknown_to_tensorrt8(proto: onnx.ModelProto) -> Iterator[str]:
    """Yield in words every node of a finished graph, with all types inferred, that TensorRT 8.5's parser lacks."""
    graph = proto.graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.value_info, *graph.output]}
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        accepted = TYPES_BY_OPERATOR.get(node.op_type) if not node.domain else None
        if accepted is None:
            yield f"{_name(node)} is an operator that TensorRT 8.5 does not have"
            continue
        read = {name: types.get(name, 0) for name in node.input if name and name not in constants}
        if node.input and node.input[0] in constants:
            read[node.input[0]] = constants[node.input[0]]
        made = {name: types.get(name, 0) for name in node.output if name}
        wrong = [kind for kind in read.values() if kind not in accepted]
        wrong += [kind for kind in made.values() if kind not in VALUE_TYPES]
        if wrong:
            yield f"{_name(node)} works in {TensorProto.DataType.Name(wrong[0]).lower()}, which TensorRT 8.5 does not"


def _name(node: onnx.NodeProto) -> str:
    return f"{node.name or node.output[0]} ({node.op_type})"
