"""Refuses a criterion that cannot tell the components of a converted layer apart; `models/ties.py` has the reasons."""

from __future__ import annotations

from torch import fx, nn

from aps_deploy.conversion.modules import CircularPool2d
from aps_deploy.conversion.operators import activation_name, called_module
from aps_deploy.errors import InputError
from aps_deploy.models.ties import ties_behind_blur, ties_behind_maximum
from aps_deploy.polyphase import Criterion

_NON_NEGATIVE = ("relu", "relu6", "sigmoid", "hardsigmoid", "softplus")


def check_not_tied(
    graph: fx.GraphModule, strided: fx.Node, tail: fx.Node, criterion: Criterion, filter_size: int
) -> None:
    """Check that a layer's components can differ by the criterion.

    Args:
        graph: the network, its strided convolutions and pools replaced by their forms of stride 1.
        strided: the convolution or pool that lost its stride.
        tail: the node behind which its output is blurred and sampled.
        criterion: the norm by which components are compared.
        filter_size: of the blur; 1 is none.

    Raises:
        InputError: they tie in every image.
    """
    if ties_behind_maximum(criterion, filter_size) and _takes_maxima(graph, strided):
        reason, cure = "takes maxima", "a filter size of 2 or more"
    elif ties_behind_blur(criterion, filter_size) and _is_non_negative(graph, tail):
        reason, cure = "gives a map without negative values, which the blur spreads evenly", "no blur"
    else:
        return
    raise InputError(
        f"{strided.target} {reason}, so that behind it the criterion {criterion} ties in every image; "
        f"use the criterion l2, or {cure}."
    )


def _is_non_negative(graph: fx.GraphModule, node: fx.Node) -> bool:
    while _takes_maxima(graph, node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return activation_name(node, called_module(graph, node)) in _NON_NEGATIVE


def _takes_maxima(graph: fx.GraphModule, node: fx.Node) -> bool:
    module = called_module(graph, node)
    return isinstance(module, nn.MaxPool2d) or (isinstance(module, CircularPool2d) and module.is_maximum)
