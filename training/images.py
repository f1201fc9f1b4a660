"""Labelled images as uint8 batches: what the loop asks for, and the images that are held in memory.

Both kinds (`image_files` has the other one) hand out the same thing for the same indices, so the loop does not know
which one it has, and where a pass over the images starts is a matter of which index batches are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor

UNREADABLE = -100
"""Label of an image that could not be read: the one that PyTorch's cross-entropy leaves out."""


class LabelledImages(Protocol):
    """Images with labels, fetched in batches of indices."""

    labels: Tensor
    """(N,) int64 class numbers."""

    unreadable: list[str]
    """What was wrong with the images that this process could not read so far, a sentence each."""

    def __len__(self) -> int: ...

    def batches(self, index_batches: Sequence[Tensor], *, seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, 3, H, W) uint8 and labels (B,) int64 of each index batch, in the given order.

        Of an image that cannot be read the label is `UNREADABLE` and the pixels are those of another image.

        Args:
            index_batches: Which images.
            seed: Of crops that are drawn while decoding; None decodes for evaluation.
        """
        ...

    def order(self, generator: Generator) -> Tensor:
        """Return all image numbers (N,) int64 in the order of one training epoch."""
        ...

    def subset(self, indices: Tensor) -> LabelledImages:
        """Return the images at `indices`, renumbered from 0."""
        ...

    def names(self, indices: Tensor) -> list[str]:
        """Return what a person finds the images at `indices` by: file names, or numbers in the archive."""
        ...

    @property
    def starts_processes(self) -> bool:
        """Whether fetching batches starts loader processes."""
        ...


class MemoryImages:
    """Decoded images held in memory.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
        names: What a person finds them by; None: their numbers from 0.
    """

    starts_processes = False

    def __init__(self, images: Tensor, labels: Tensor, names: Sequence[str] | None = None) -> None:
        self.images, self.labels = images, labels
        self.unreadable: list[str] = []
        self._names = [str(number) for number in range(len(labels))] if names is None else list(names)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, index_batches: Sequence[Tensor], *, seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, 3, H, W) uint8 and labels (B,) int64 of each index batch; nothing is drawn here.

        Where there is a GPU they are pinned, so that copying them to it waits for nothing: the next batch is put
        together while the GPU computes, without a thread.
        """
        pinned = torch.cuda.is_available()
        for indices in index_batches:
            images, labels = self.images[indices], self.labels[indices]
            yield (images.pin_memory(), labels.pin_memory()) if pinned else (images, labels)

    def order(self, generator: Generator) -> Tensor:
        """Return all image numbers (N,) int64, shuffled."""
        return torch.randperm(len(self), generator=generator)

    def subset(self, indices: Tensor) -> MemoryImages:
        """Return the images at `indices`, renumbered from 0."""
        return MemoryImages(self.images[indices], self.labels[indices], self.names(indices))

    def names(self, indices: Tensor) -> list[str]:
        """Return what a person finds the images at `indices` by."""
        return [self._names[index] for index in indices.tolist()]
