"""From a module to a torch.fx graph with the shape of every value."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from aps_deploy.conversion.operators import LEAVES
from aps_deploy.conversion.timm_layers import is_blur, is_drop
from aps_deploy.errors import InputError

# Divisible by every stride a classifier has; on the meta device its size costs nothing.
PROBE_SIDE = 256


class _Tracer(fx.Tracer):
    """Follows a forward pass, and knows in whose it is where that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.within: list[str] = []

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.within.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.within.pop()
        return result

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, LEAVES) or is_blur(m) or is_drop(m)
        return known or super().is_leaf_module(m, module_qualified_name)


class _ShapeRecorder(fx.Interpreter):
    """Runs a graph and keeps the shape of each tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n.name] = tuple(result.shape)
        return result


def traced(model: nn.Module) -> tuple[fx.GraphModule, dict[str, tuple[int, ...]]]:
    """Return the evaluation of ``model`` as a graph that shares its modules, and each value's shape by node name.

    Args:
        model: takes images (2, 3, 256, 256) and returns logits; it is not changed.

    Raises:
        InputError: its control flow depends on its data, or it does not take such images.
    """
    name = type(model).__name__
    modes = {module: module.training for module in model.modules()}
    tracer = _Tracer()
    try:
        graph = tracer.trace(model.eval())
    except Exception as error:  # whatever the network's own code raises when it meets a symbol in place of a tensor
        whose = f"the forward pass of {tracer.within[-1]}" if tracer.within else "its forward pass"
        raise InputError(
            f"{name} cannot be converted: torch.fx cannot follow {whose} "
            f"({type(error).__name__}: {_first_line(error)})."
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    _drop_identities(model, graph)
    result = fx.GraphModule(model, graph)
    with torch.device("meta"):
        probe = torch.empty(2, 3, PROBE_SIDE, PROBE_SIDE)
    recorder = _ShapeRecorder(copy.deepcopy(result).to("meta").eval())
    try:
        recorder.run(probe)
    except Exception as error:  # as above
        raise InputError(
            f"{name} cannot be converted: it does not run on images of {PROBE_SIDE}x{PROBE_SIDE} "
            f"({type(error).__name__}: {_first_line(error)})."
        ) from error
    return result, recorder.shapes


def _drop_identities(model: nn.Module, graph: fx.Graph) -> None:
    """Take out what does nothing, so that what follows on each other in effect follows on each other in the graph."""
    for node in list(graph.nodes):
        if node.op == "call_module" and type(model.get_submodule(str(node.target))) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".")
