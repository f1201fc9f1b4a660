"""What an analysis found and a rewriting carries out: by node of the graph, what takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import fx

from aps_deploy.conversion.operators import called_name
from aps_deploy.conversion.windows import Window

Head = Literal["gap"] | None
Action = Literal["window", "blur", "pool", "maximum", "classifier", "pixelwise", "dropout", "expand"]


@dataclass
class Plan:
    """What the rewriting is to do.

    Attributes:
        actions: by node, what takes its place.
        windows: the stride-1 circular form of each node whose action is ``window`` or ``blur``.
        blurs: sizes of the binomial filters of the nodes that blurred before they strided.
        leader: for each strided node the one whose choice it takes; a leader's is its own.
        cut: with ``head="gap"`` the node that flattens the last map, which a new head replaces with all behind it.
        position_dependent: activations on maps whose bits depend on the position in PyTorch on a CPU.
        output_grid: strided nodes on the way to the pooling.
    """

    actions: dict[fx.Node, Action] = field(default_factory=dict)
    windows: dict[str, Window] = field(default_factory=dict)
    blurs: dict[str, int] = field(default_factory=dict)
    leader: dict[str, str] = field(default_factory=dict)
    cut: fx.Node | None = None
    position_dependent: list[str] = field(default_factory=list)
    output_grid: tuple[str, ...] = ()


def module_name(node: fx.Node) -> str:
    """Return where in the original network a node stands, for messages."""
    if node.op == "call_module":
        return str(node.target)
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    path = next((str(entry[0]) for entry in reversed(list(stack.values()))), "")
    return f"{path or 'the forward pass'} ({called_name(node)})"
