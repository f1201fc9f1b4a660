"""The selections of one forward pass, in order: made, forced or traced."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aps_deploy.errors import InputError
from aps_deploy.polyphase import Selection, polyphase_index, select

if TYPE_CHECKING:
    from aps_deploy.layers.aps import APS


@dataclass
class Selections:
    """Hands each selecting layer its index and keeps what was chosen.

    Attributes:
        forced: (N, L) int64, the indices to use instead of choosing, or None.
        tracing: whether to keep each layer's own choice with its scores and margin as well (slower; for
            verification, never while exporting).
        indices: what was used so far, one (N,) int64 tensor per layer.
        traced: with ``tracing``, what each layer would have chosen by itself.
    """

    forced: Tensor | None = None
    tracing: bool = False
    indices: list[Tensor] = field(default_factory=list)
    traced: list[Selection] = field(default_factory=list)

    @property
    def are_free(self) -> bool:
        """Whether layers choose by themselves and nothing but the choice is kept."""
        return self.forced is None and not self.tracing

    def keep(self, index: Tensor) -> Tensor:
        """Keep an index (N,) int64 that a layer chose, and return it."""
        self.indices.append(index)
        return index

    def choose(self, x: Tensor, layer: APS) -> Tensor:
        """Return the index (N,) int64 by which ``layer`` samples ``x`` (N, C, H, W).

        Raises:
            InputError: the forced indices do not fit the batch or the number of layers.
        """
        position = len(self.indices)
        if self.tracing:
            self.traced.append(select(x, layer.stride, layer.criterion, layer.selection))
        if self.forced is not None:
            index = self._forced_index(position, x.shape[0], layer.stride**2)
        elif self.tracing:
            index = self.traced[-1].index
        else:
            index = polyphase_index(x, layer.stride, layer.criterion, layer.selection)
        return self.keep(index)

    def _forced_index(self, position: int, batch: int, components: int) -> Tensor:
        assert self.forced is not None
        if self.forced.dim() != 2 or self.forced.shape[0] != batch or position >= self.forced.shape[1]:
            raise InputError(
                f"forced indices of shape {tuple(self.forced.shape)} do not fit a batch of {batch} images and "
                "this network; give one row per image and one column per selecting layer."
            )
        index = self.forced[:, position].to(torch.int64)
        if bool(((index < 0) | (index >= components)).any()):
            raise InputError(f"forced indices must lie in 0..{components - 1}; saw {index.tolist()}.")
        return index

    def stacked(self, batch: int, device: torch.device) -> Tensor:
        """Return the indices used, (N, L) int64; (N, 0) for a network that selects nothing."""
        if not self.indices:
            return torch.empty(batch, 0, dtype=torch.int64, device=device)
        return torch.stack(self.indices, dim=1)
