"""The precisions of an exported file, and the graph in half precision.

A half-precision graph is the float32 graph with its weights and feature maps in the narrow type. It is made from the
traced float32 graph and not by tracing the network in half precision: there the batch norms are folded into the
convolutions before anything is rounded, and a variance beyond 65504 is no infinity.

What stays float32, in every precision, and why:

* selections: rounding energies to fp16 breaks 17 to 19 % of shifted pairs, to bf16 73 %; their bodies widen the map;
* global pooling: its exact sum starts from float32 values on a scale of 2**30;
* the classifier: a logit of 10 in fp16 is off by up to 0.004, more than the whole network is allowed to be.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aps_deploy.errors import ApsError, InputError, known_name
from aps_deploy.export.op_names import DOMAIN, EXACT_MEAN_OP

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# Pad(mode="wrap"), the circular padding, came with 19; 20 is the first that all runtimes of the project agree on.
# Conv and MaxPool take bfloat16 from 22 on. ONNX Runtime 1.31 cannot load symmetric int8 pairs of 21 or later: it turns
# them into uint8 and forgets the output type that QuantizeLinear states since then.
OPSETS: dict[Precision, range] = {
    "fp32": range(20, 24),
    "fp16": range(20, 24),
    "bf16": range(22, 24),
    "int8": range(20, 21),
}
_OPSET_REASONS: dict[Precision, str] = {
    "fp32": "circular padding and the runtimes work from 20 on, and 23 is the newest",
    "fp16": "circular padding and the runtimes work from 20 on, and 23 is the newest",
    "bf16": "convolutions take bf16 from 22 on, and 23 is the newest",
    "int8": "ONNX Runtime cannot load int8 of a later one",
}

_HALF_TYPES: dict[str, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_FLOAT32_CONSUMERS = {"Gemm", "MatMul"}
_SHAPERS = {"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}


def resolve_precision(name: str) -> Precision:
    """Return ``name`` as one of the precisions.

    Raises:
        InputError: no such precision.
    """
    return known_name(name, PRECISIONS, "precision")


def resolve_opset(opset: int | None, precision: Precision) -> int:
    """Return the version of the standard operators to write; None takes the lowest that has the precision.

    Raises:
        InputError: the version is not one of those exported, or lacks the precision.
    """
    accepted = OPSETS[precision]
    if opset is None:
        return accepted[0]
    if opset not in accepted:
        reason = _OPSET_REASONS[precision]
        raise InputError(f"opset {opset} is not available for {precision}: {reason}; use {accepted[0]}.")
    return opset


def in_half_precision(
    traced: onnx.ModelProto, precision: Literal["fp16", "bf16"], kept: Collection[str] = ()
) -> onnx.ModelProto:
    """Return a graph of `trace_onnx`, which is not changed, with its network in half precision.

    The input and the logits stay float32; see the top of this file for what else does.

    Args:
        traced: The graph.
        precision: Of its weights and feature maps.
        kept: Names of convolutions that compute in float32 all the same, with float32 weights, on half-precision maps.

    Raises:
        ApsError: a weight is beyond the largest number of the precision, or something but the classifier reads a
            pooled value.
    """
    _check_pooled(traced.graph, precision)
    proto = onnx.ModelProto()
    proto.CopyFrom(traced)
    graph, kind = proto.graph, _HALF_TYPES[precision]
    _keep_weights(graph, kept)
    _narrow_weights(graph, precision, kept)
    _widen_kept(graph, kept, kind)
    _widen_pooling(graph)
    image = graph.input[0].name
    narrow = f"{image}_{precision}"
    for node in graph.node:
        node.input[:] = [narrow if name == image else name for name in node.input]
    graph.node.insert(0, helper.make_node("Cast", [image], [narrow], name=f"{image}/Cast", to=kind))
    # They describe the float32 graph; `finish_onnx` infers them anew.
    del graph.value_info[:]
    return proto


def _check_pooled(graph: onnx.GraphProto, precision: str) -> None:
    """Refuse converted networks that compute with pooled values, which are float32, before their classifier."""
    pooled: set[str] = set()
    for node in graph.node:
        is_pooling = node.domain == DOMAIN and node.op_type.startswith(EXACT_MEAN_OP)
        if is_pooling or (node.op_type in _SHAPERS and pooled.intersection(node.input)):
            pooled.update(node.output)
        elif node.op_type not in _FLOAT32_CONSUMERS and pooled.intersection(node.input):
            raise ApsError(
                f"{precision} is written for networks whose pooled values only the classifier reads, and here "
                f"{node.name} does; export in fp32."
            )


def _keep_weights(graph: onnx.GraphProto, kept: Collection[str]) -> None:
    """Give kept layers weights of their own: two layers may share a blur, of which only one is kept."""
    if not kept:
        return
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.name in kept:
            for position, name in enumerate(node.input[1:], start=1):
                own = f"{name}_fp32"
                if own not in weights:
                    weights[own] = graph.initializer.add()
                    weights[own].CopyFrom(weights[name])
                    weights[own].name = own
                node.input[position] = own
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _widen_kept(graph: onnx.GraphProto, kept: Collection[str], kind: int) -> None:
    """Cast the input of every kept layer to float32 and its output back."""
    for position, node in reversed(list(enumerate(graph.node))):
        if node.name in kept:
            scope, made = node.name.rpartition("/")[0], node.output[0]
            # Not "_fp32": that is what an exact pooling reads, which may be next.
            node.output[0], source = f"{made}_wide", node.input[0]
            node.input[0] = f"{made}_input_fp32"
            back = helper.make_node("Cast", [node.output[0]], [made], name=f"{scope}/Cast_back", to=kind)
            wide = helper.make_node("Cast", [source], [node.input[0]], name=f"{scope}/Cast", to=TensorProto.FLOAT)
            graph.node.insert(position + 1, back)
            graph.node.insert(position, wide)


def _narrow_weights(graph: onnx.GraphProto, precision: str, kept: Collection[str]) -> None:
    wide = {
        name for node in graph.node if node.op_type in _FLOAT32_CONSUMERS or node.name in kept for name in node.input
    }
    dtype = helper.tensor_dtype_to_np_dtype(_HALF_TYPES[precision])
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name in wide:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            narrow = values.astype(dtype)
        if not np.isfinite(narrow.astype(np.float32)).all():
            raise ApsError(
                f"the weights {tensor.name} reach {np.abs(values).max():.3g}, beyond the largest number of "
                f"{precision}; export in {'bf16 or fp32' if precision == 'fp16' else 'fp32'}."
            )
        tensor.CopyFrom(numpy_helper.from_array(narrow, tensor.name))


def _widen_pooling(graph: onnx.GraphProto) -> None:
    """Cast the input of every exact pooling to float32; what it makes is float32 then, and so is the classifier."""
    for position, node in reversed(list(enumerate(graph.node))):
        if node.domain == DOMAIN and node.op_type.startswith(EXACT_MEAN_OP):
            source = node.input[0]
            wide = f"{source}_fp32"
            scope = node.name.rpartition("/")[0]
            node.input[0] = wide
            cast = helper.make_node("Cast", [source], [wide], name=f"{scope}/Cast", to=TensorProto.FLOAT)
            graph.node.insert(position, cast)
