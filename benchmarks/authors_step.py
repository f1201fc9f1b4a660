"""APS as the authors' ImageNet networks train it, for comparison: the whole map is permuted into its components.

Written from the paper's description and the order of steps recorded in the project's notes: the flattened map is
reordered by one `index_select`, so that every component is contiguous, permuted, `torch.norm` compares the components,
and indexing picks one; the shortcut is reordered as a whole, too. The rest of the network is ours.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from aps_deploy.layers import APS, Selections
from aps_deploy.models.network import SelectingNetwork


class PermutingAPS(APS):
    """The same choice, in the authors' formulation."""

    def forward(self, x: Tensor, selections: Selections) -> tuple[Tensor, Tensor]:
        """Return the kept component (N, C, H/s, W/s) of ``x`` (N, C, H, W) and its index (N,) int64."""
        components = permuted(self.blur(x), self.stride)
        compared = components if self.blur_position == "before_selection" else permuted(x, self.stride)
        index = torch.norm(compared.flatten(2), p=2, dim=2).argmax(dim=1)
        return _taken(components, index, x, self.stride), index

    def reuse(self, x: Tensor, index: Tensor | None) -> Tensor:
        """Return the component ``index`` of the blurred map ``x``."""
        assert index is not None
        return _taken(permuted(self.blur(x), self.stride), index, x, self.stride)


def permuted(x: Tensor, stride: int) -> Tensor:
    """Return the components (N, s*s, C, H/s * W/s) of a map (N, C, H, W), all of them."""
    num, channels, height, width = x.shape
    order = _order(height, width, stride, x.device)
    reordered = x.reshape(num, channels, -1).index_select(2, order)
    return reordered.view(num, channels, stride * stride, -1).permute(0, 2, 1, 3)


@cache
def _order(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """Return the positions of the flattened map, component after component."""
    positions = torch.arange(height * width, device=device).view(height, width)
    parts = [positions[dy::stride, dx::stride].reshape(-1) for dx in range(stride) for dy in range(stride)]
    return torch.cat(parts)


def _taken(components: Tensor, index: Tensor, x: Tensor, stride: int) -> Tensor:
    num, channels, height, width = x.shape
    kept = components[torch.arange(num, device=x.device), index]
    return kept.view(num, channels, height // stride, width // stride)


def in_permuting_form(model: SelectingNetwork) -> SelectingNetwork:
    """Return ``model``, changed in place, with the l2 criterion in the authors' formulation in every layer."""

    def change(module: nn.Module) -> None:
        if isinstance(module, APS):
            module.__class__ = PermutingAPS

    model.selection_layers = []
    return model.apply(change)
