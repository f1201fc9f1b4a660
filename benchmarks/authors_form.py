"""APS as its authors describe it, for comparison: every component gathered, a float norm each, argmax, indexing.

Written from the paper's description and the order of steps in `docs/design.md`; the rest of the network is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aps_deploy.layers import APS, Selections
from aps_deploy.models.network import SelectingNetwork


class AuthorsAPS(APS):
    """The same choice, in the authors' formulation: the blur covers the whole map, components are stacked."""

    def forward(self, x: Tensor, selections: Selections) -> tuple[Tensor, Tensor]:
        """Return the kept component (N, C, H/s, W/s) of ``x`` (N, C, H, W) and its index (N,) int64."""
        blurred = self.blur(x)
        components = self._components(blurred)
        compared = components if self.blur_position == "before_selection" else self._components(x)
        index = torch.linalg.vector_norm(compared.flatten(2), dim=2).argmax(dim=1)
        return self._take(components, index), index

    def reuse(self, x: Tensor, index: Tensor | None) -> Tensor:
        """Return the component ``index`` of the blurred map ``x``."""
        assert index is not None
        return self._take(self._components(self.blur(x)), index)

    def _components(self, x: Tensor) -> Tensor:
        s = self.stride
        return torch.stack([x[:, :, row::s, column::s] for column in range(s) for row in range(s)], dim=1)

    @staticmethod
    def _take(components: Tensor, index: Tensor) -> Tensor:
        return components[torch.arange(components.shape[0], device=components.device), index]


def in_authors_form(model: SelectingNetwork) -> SelectingNetwork:
    """Return ``model``, changed in place, with the l2 criterion in the authors' formulation in every layer.

    It gives no indices, so the exporter leaves it as it stands.
    """

    def change(module: nn.Module) -> None:
        if isinstance(module, APS):
            module.__class__ = AuthorsAPS

    model.selection_layers = []
    return model.apply(change)
