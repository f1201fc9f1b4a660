"""What each step of a traced network does with positions: nothing, a join, or something a converter must know.

Activations were tried on PyTorch's CPU kernels with maps of 11 sizes from 2x2 to 56x56, 3 to 96 channels, both memory
formats and three shifts each, one and two threads. Those in `POSITION_DEPENDENT` differed in the last bits in 10 to
25 % of the trials (the tails of their vector loops compute otherwise); all others never did. ONNX Runtime's operators
of the same functions never did on its CPU, see docs/design.md.
"""

from __future__ import annotations

import operator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import StochasticDepth

_INDEPENDENT = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.LeakyReLU, nn.Tanh, nn.Softsign)
_DEPENDENT = (nn.GELU, nn.SiLU, nn.Sigmoid, nn.ELU, nn.SELU, nn.CELU, nn.Mish, nn.Softplus)

ACTIVATION_MODULES = (*_INDEPENDENT, *_DEPENDENT)

# By the name that torch.nn.functional, torch and Tensor share.
_ACTIVATION_NAMES = {"relu", "relu6", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "tanh", "softsign",
                     "gelu", "silu", "sigmoid", "elu", "selu", "celu", "mish", "softplus"}  # fmt: skip
POSITION_DEPENDENT = {kind.__name__.lower() for kind in _DEPENDENT}

_JOINS = {operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, torch.add, torch.sub, torch.mul}
_JOIN_METHODS = {"add", "add_", "sub", "mul", "mul_"}

_ONE = (1, (1, 1), [1, 1])
_GLOBAL = {
    "mean": (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d, "mean"),
    "maximum": (nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d, "amax"),
}

# Modules that treat every pixel alike, and know the layout of what they get.
PIXELWISE_MODULES = (nn.BatchNorm2d, nn.Dropout, nn.Identity, StochasticDepth)
LEAVES = (LayerNorm2d, nn.LayerNorm, StochasticDepth)


def activation_name(node: fx.Node, module: nn.Module | None) -> str | None:
    """Return the activation a node applies, in lower case without underscores, or None."""
    if node.op == "call_module":
        return type(module).__name__.lower() if isinstance(module, ACTIVATION_MODULES) else None
    name = called_name(node)
    return name.replace("_", "") if name in _ACTIVATION_NAMES else None


def called_module(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls; None where it calls none."""
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def called_name(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls, without an in-place underscore."""
    target: Any = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return name if name.startswith("_") else name.removesuffix("_")


def is_join(node: fx.Node) -> bool:
    """Return whether a node combines two tensors pixel by pixel."""
    return node.target in (_JOINS if node.op == "call_function" else _JOIN_METHODS)


def is_global(node: fx.Node, module: nn.Module | None, kind: Literal["mean", "maximum"]) -> bool:
    """Return whether a node pools a channels-first map to its mean, or its maximum, over all positions."""
    pools, function, method = _GLOBAL[kind]
    if module is not None and isinstance(module, pools):
        return getattr(module, "output_size", None) in _ONE and not getattr(module, "return_indices", False)
    if node.op == "call_module":
        return False
    if node.target is function:
        gives_indices = any(node.args[2:]) or node.kwargs.get("return_indices")
        return not gives_indices and (node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")) in _ONE
    if called_name(node) != method:
        return False
    axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return isinstance(axes, list | tuple) and sorted(int(str(axis)) % 4 for axis in axes) == [2, 3]


def is_dropout(node: fx.Node) -> bool:
    """Return whether a node calls dropout as a function, whose mode a trace has frozen."""
    return node.op == "call_function" and node.target in (F.dropout, torch.dropout)
