"""APS as its authors describe it, for comparison: every component gathered, a float norm each, argmax, indexing.

Written from the paper's description and the order of steps in `docs/design.md`; the rest of the network is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aps_deploy.layers import APS, Selections
from aps_deploy.models.network import SelectingNetwork
from aps_deploy.polyphase import polyphase_components, take_component


class AuthorsAPS(APS):
    """The same choice, in the authors' formulation: the blur covers the whole map, components are stacked."""

    def forward(self, x: Tensor, selections: Selections) -> tuple[Tensor, Tensor]:
        """Return the kept component (N, C, H/s, W/s) of ``x`` (N, C, H, W) and its index (N,) int64."""
        components = polyphase_components(self.blur(x), self.stride)
        compared = components if self.blur_position == "before_selection" else polyphase_components(x, self.stride)
        index = torch.linalg.vector_norm(compared.flatten(2), dim=2).argmax(dim=1)
        return components[torch.arange(x.shape[0], device=x.device), index], index

    def reuse(self, x: Tensor, index: Tensor | None) -> Tensor:
        """Return the component ``index`` of the blurred map ``x``."""
        assert index is not None
        return take_component(self.blur(x), index, self.stride)


def in_authors_form(model: SelectingNetwork) -> SelectingNetwork:
    """Return ``model``, changed in place, with the l2 criterion in the authors' formulation in every layer.

    It gives no indices, so the exporter leaves it as it stands.
    """

    def change(module: nn.Module) -> None:
        if isinstance(module, APS):
            module.__class__ = AuthorsAPS

    model.selection_layers = []
    return model.apply(change)
