"""Labelled images as uint8 batches: held in memory when small, decoded by loader processes when large.

Both kinds hand out the same thing for the same indices, so the loop does not know which one it has, and where a
pass over the images starts is a matter of which index batches are asked for.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from aps_deploy.errors import ApsError
from aps_deploy.preprocessing import Preprocessing, load_image

_LOGGER = logging.getLogger(__name__)

# Above either limit images stay on disk: 224-pixel crops of ImageNet would need 180 GiB of memory.
_MEMORY_LIMIT_BYTES = 2 << 30
_MEMORY_LIMIT_SIDE = 96


class LabelledImages(Protocol):
    """Images with labels, fetched in batches of indices."""

    labels: Tensor
    """(N,) int64 class numbers."""

    def __len__(self) -> int: ...

    def batches(self, index_batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, 3, H, W) uint8 and labels (B,) int64 of each index batch, in the given order."""
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
        self._names = [str(number) for number in range(len(labels))] if names is None else list(names)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, index_batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, 3, H, W) uint8 and labels (B,) int64 of each index batch."""
        for indices in index_batches:
            yield self.images[indices], self.labels[indices]

    def subset(self, indices: Tensor) -> MemoryImages:
        """Return the images at `indices`, renumbered from 0."""
        return MemoryImages(self.images[indices], self.labels[indices], self.names(indices))

    def names(self, indices: Tensor) -> list[str]:
        """Return what a person finds the images at `indices` by."""
        return [self._names[index] for index in indices.tolist()]


class FileImages:
    """Image files, decoded, resized and cropped by loader processes on every pass."""

    def __init__(self, paths: Sequence[Path], labels: Tensor, preprocessing: Preprocessing, *, workers: int) -> None:
        self.paths, self.labels = list(paths), labels
        self.preprocessing, self.workers = preprocessing, workers

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, index_batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, 3, H, W) uint8 and labels (B,) int64 of each index batch.

        Raises:
            InputError: a file is missing, truncated or no image.
        """
        if not index_batches:
            return
        loader = DataLoader(
            _FileBatches(self, index_batches),
            batch_size=None,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_signals_to_the_loop,
            # The loader draws its workers' seed from a generator; an own one leaves the global state, which a
            # resumed run restores, alone.
            generator=torch.Generator().manual_seed(0),
        )
        for batch in loader:
            if isinstance(batch, ApsError):
                raise batch
            images, labels = batch
            yield images, labels

    def subset(self, indices: Tensor) -> FileImages:
        """Return the images at `indices`, renumbered from 0."""
        paths = [self.paths[index] for index in indices.tolist()]
        return FileImages(paths, self.labels[indices], self.preprocessing, workers=self.workers)

    def names(self, indices: Tensor) -> list[str]:
        """Return the paths of the images at `indices`."""
        return [str(self.paths[index]) for index in indices.tolist()]

    @property
    def starts_processes(self) -> bool:
        """Whether fetching batches starts loader processes."""
        return self.workers > 0


class _FileBatches(Dataset[tuple[Tensor, Tensor] | ApsError]):
    """The batches of one pass; an unreadable file comes as the error itself.

    An exception that crosses from a loader process would arrive with that process's traceback as its text.
    """

    def __init__(self, files: FileImages, index_batches: Sequence[Tensor]) -> None:
        self._files, self._index_batches = files, index_batches

    def __len__(self) -> int:
        return len(self._index_batches)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor] | ApsError:
        files, indices = self._files, self._index_batches[number]
        try:
            decoded = [decode(files.paths[index], files.preprocessing) for index in indices.tolist()]
        except ApsError as error:
            return error
        # Stacks into shared memory where this is a loader process.
        return default_collate(decoded), files.labels[indices]


def _leave_signals_to_the_loop(worker: int) -> None:
    # Ctrl-C and batch systems signal the whole process group. A worker that dies raises in the middle of an
    # optimizer step, and the state saved then would be neither before nor after it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def decode(path: Path, preprocessing: Preprocessing) -> Tensor:
    """Return one image file, resized and cropped, as (3, H, W) uint8.

    Raises:
        InputError: the file is missing, truncated or no image.
    """
    pixels = np.array(preprocessing.crop(load_image(path)), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def open_images(
    paths: Sequence[Path],
    labels: Tensor,
    preprocessing: Preprocessing,
    *,
    workers: int,
) -> LabelledImages:
    """Return the images, in memory if they are small and few enough, else read from disk on every pass.

    Args:
        paths: Image files.
        labels: (N,) int64 class numbers.
        preprocessing: Resize and crop.
        workers: Loader processes, where the images stay on disk.
    """
    side = preprocessing.image_size
    if side > _MEMORY_LIMIT_SIDE or len(paths) * 3 * side * side > _MEMORY_LIMIT_BYTES:
        return FileImages(paths, labels, preprocessing, workers=workers)
    images = torch.empty(len(paths), 3, side, side, dtype=torch.uint8)
    for number, path in enumerate(paths):
        images[number] = decode(path, preprocessing)
    _LOGGER.debug("decoded %d images of %d x %d into memory", len(paths), side, side)
    return MemoryImages(images, labels, [str(path) for path in paths])
