"""From a PyTorch model to an ONNX graph that still holds the project's operators as single nodes.

torch.export keeps the custom ops of `aps_deploy.polyphase` whole. A decomposition then replaces each by PyTorch's own
placeholder for an arbitrary ONNX node (`torch.onnx.ops.symbolic`), so nothing here depends on the exporter's internals.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from aps_deploy.export.forms import INDICES_NAME
from aps_deploy.export.graph_edits import rename_values
from aps_deploy.export.op_names import DOMAIN, DOMAIN_VERSION, Choice, exact_mean_op, index_op, take_op
from aps_deploy.models import SelectingNetwork
from aps_deploy.polyphase import exporting

INPUT_NAME = "images"
LOGITS_NAME = "logits"
BATCH_NAME = "batch"


class _ExportedForward(nn.Module):
    """The model's exported signature: logits, and the indices where the network selects anything."""

    def __init__(self, model: SelectingNetwork, num_selections: int) -> None:
        super().__init__()
        self.model = model
        self.num_selections = num_selections

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits, indices = self.model.forward_with_selection(images)
        return (logits, indices) if self.num_selections else (logits,)


def trace(model: SelectingNetwork, *, height: int, width: int, opset: int) -> onnx.ModelProto:
    """Return the evaluation of ``model`` as an ONNX graph with nodes of the domain ``aps``, which have no bodies yet.

    The model is copied to the CPU first and left as it is. The batch is dynamic, the map size is not.

    Args:
        model: The network.
        height: Height of the input in pixels.
        width: Width of the input in pixels.
        opset: Version of the standard operators.
    """
    names = [LOGITS_NAME, INDICES_NAME] if model.selection_layers else [LOGITS_NAME]
    wrapper = _ExportedForward(copy.deepcopy(model).cpu().eval(), len(names) - 1)
    # Two images: torch.export would take a batch of one for a constant.
    example = torch.zeros(2, 3, height, width)
    with exporting(), torch.no_grad(), _quiet():
        program = torch.export.export(wrapper, (example,), dynamic_shapes=({0: torch.export.Dim(BATCH_NAME)},))
        program = program.run_decompositions(_placeholders())
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=names,
            verbose=False,
        )
    assert exported is not None
    proto = exported.model_proto
    _name_batch(proto)
    _name_parameters(proto)
    return proto


def _placeholders() -> dict[object, object]:
    operators = torch.ops.aps
    return {
        operators.polyphase_index.default: _index_placeholder,
        operators.polyphase_take.default: _take_placeholder,
        operators.exact_mean.default: _mean_placeholder,
    }


def _index_placeholder(x: Tensor, stride: int, criterion: str, selection: str) -> Tensor:
    name = index_op(Choice(criterion, selection, stride))
    return _placeholder(name, (x,), _node_attributes(stride), torch.int64, (x.shape[0],))


def _take_placeholder(x: Tensor, index: Tensor, stride: int) -> Tensor:
    batch, channels, height, width = x.shape
    shape = (batch, channels, height // stride, width // stride)
    return _placeholder(take_op(stride), (x, index), _node_attributes(stride), x.dtype, shape)


def _mean_placeholder(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return _placeholder(exact_mean_op((int(height), int(width))), (x,), {}, x.dtype, (batch, channels))


def _placeholder(
    name: str,
    inputs: tuple[Tensor, ...],
    attributes: dict[str, Any],
    dtype: torch.dtype,
    shape: tuple[int | torch.SymInt, ...],
) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{name}", inputs, attributes, dtype=dtype, shape=shape, version=DOMAIN_VERSION
    )


def _node_attributes(stride: int) -> dict[str, Any]:
    # The two strings make TensorRT 10.7 and later look for a plugin before it takes the body. Everything else must
    # be an integer: quickly deployable plugins read strings with a trailing zero byte.
    return {"plugin_namespace": DOMAIN, "plugin_version": "1", "stride": stride}


def _name_batch(proto: onnx.ModelProto) -> None:
    """Rename the batch dimension, which the exporter calls by an internal symbol, wherever it stands."""
    symbol = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == symbol:
                dimension.dim_param = BATCH_NAME


def _name_parameters(proto: onnx.ModelProto) -> None:
    """Give initializers the names of the state dict: no wrapper in front, and a folded batch norm is a ``bias``."""
    renamed = {}
    for tensor in proto.graph.initializer:
        name = tensor.name.removeprefix("model.")
        if name.endswith(".weight_bias"):
            name = name.removesuffix("weight_bias") + "bias"
        renamed[tensor.name] = name
    rename_values(proto.graph, renamed)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter says about its own internals; errors are raised, not printed."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
