"""Refuses a criterion that cannot tell the components of a converted layer apart; `models/ties.py` has the reasons."""

from __future__ import annotations

import operator

from torch import fx, nn

from aps_deploy.conversion.modules import CircularPool2d, Follower
from aps_deploy.conversion.operators import activation_name, called_module
from aps_deploy.errors import InputError
from aps_deploy.layers import APS, Blur
from aps_deploy.models.ties import ties_behind_blur, ties_behind_maximum
from aps_deploy.polyphase import Criterion

# A mean of 2x2 pixels is the binomial filter of two taps.
_EVEN_TAPS = 2
_NON_NEGATIVE = ("relu", "relu6", "sigmoid", "hardsigmoid", "softplus")


def check_not_tied(
    graph: fx.GraphModule,
    strided: fx.Node,
    tail: fx.Node,
    criterion: Criterion,
    filter_size: int,
    *,
    own_blur: int = 1,
) -> None:
    """Check that a layer's components can differ by the criterion.

    Args:
        graph: the network, its strided convolutions and pools replaced by their forms of stride 1.
        strided: the convolution or pool that lost its stride.
        tail: the node behind which its output is blurred and sampled.
        criterion: the norm by which components are compared.
        filter_size: of the blur; 1 is none.
        own_blur: of the blur that the network brought itself; 1 is none.

    Raises:
        InputError: they tie in every image.
    """
    cures = ["the criterion l2"]
    if ties_behind_maximum(criterion, filter_size) and _takes_maxima(graph, strided):
        reason = "takes maxima"
        cures.append("a filter size of 2 or more")
    elif ties_behind_blur(criterion, _EVEN_TAPS) and tail is strided and _averages_evenly(graph, strided):
        if not _is_non_negative(graph, tail):
            return
        reason = "averages a map without negative values, and its windows count every pixel in every component alike"
    elif ties_behind_blur(criterion, filter_size) and _is_non_negative(graph, tail):
        reason = "gives a map without negative values, which the blur spreads evenly"
        cures += ["no blur"] * (own_blur == 1)
    else:
        return
    raise InputError(
        f"{strided.target} {reason}, so that behind it the criterion {criterion} ties in every image; "
        f"use {', or '.join(cures)}."
    )


def _is_non_negative(graph: fx.GraphModule, node: fx.Node) -> bool:
    while _keeps_signs(graph, node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return activation_name(node, called_module(graph, node)) in _NON_NEGATIVE


def _keeps_signs(graph: fx.GraphModule, node: fx.Node) -> bool:
    # A sampler in front returns a pair; a strided blur of the network's own is an Identity by now, its filter there.
    if node.target is operator.getitem:
        return True
    kinds = nn.MaxPool2d | nn.AvgPool2d | CircularPool2d | Blur | nn.Identity | APS | Follower
    return isinstance(called_module(graph, node), kinds)


def _averages_evenly(graph: fx.GraphModule, node: fx.Node) -> bool:
    module = called_module(graph, node)
    if not isinstance(module, CircularPool2d) or module.is_maximum:
        return False
    size = module.kernel_size
    return all(side % 2 == 0 for side in ((size, size) if isinstance(size, int) else size))


def _takes_maxima(graph: fx.GraphModule, node: fx.Node) -> bool:
    module = called_module(graph, node)
    return isinstance(module, nn.MaxPool2d) or (isinstance(module, CircularPool2d) and module.is_maximum)
