"""Which process of a run this is.

One process today. Every place that depends on there being several asks this object, so that distribution changes
this file and the gradient exchange, not the loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Process:
    """Rank of this process among those that train together."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, indices: Tensor) -> Tensor:
        """Return this process's part of a global batch of image indices; every index belongs to one process."""
        return indices[self.rank :: self.world_size]
