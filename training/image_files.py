"""Encoded images, decoded by loader processes on every pass, or once where they are small enough for the memory."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from aps_deploy.errors import ApsError, InputError
from aps_deploy.preprocessing import Preprocessing
from aps_deploy.training.images import UNREADABLE, LabelledImages, MemoryImages
from aps_deploy.training.random_crop import random_resized_crop
from aps_deploy.training.sources import Member, Source, load_source, too_many_unreadable

_LOGGER = logging.getLogger(__name__)

# Above either limit images stay on disk: 224-pixel crops of ImageNet would need 180 GiB of memory.
_MEMORY_LIMIT_BYTES = 2 << 30
_MEMORY_LIMIT_SIDE = 96
# Shards that are shuffled together: few enough for a disk or a server to read them in long pieces.
_SHARDS_TOGETHER = 16


class FileImages:
    """Encoded images, decoded, resized and cropped by loader processes on every pass.

    Args:
        sources: Where each image lies.
        labels: (N,) int64.
        preprocessing: Resize and crop, for evaluation and for training without random crops.
        workers: Loader processes.
        crops_at_random: Training draws `random_resized_crop` instead.
        max_unreadable: How many of them may be unreadable; with 0 nothing is said of the first, which ends the run.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        labels: Tensor,
        preprocessing: Preprocessing,
        *,
        workers: int,
        crops_at_random: bool = False,
        max_unreadable: int = 0,
    ) -> None:
        self.sources, self.labels = list(sources), labels
        self.preprocessing, self.workers = preprocessing, workers
        self.crops_at_random, self.max_unreadable = crops_at_random, max_unreadable
        self.unreadable: list[str] = []

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, index_batches: Sequence[Tensor], *, seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, 3, H, W) uint8 and labels (B,) int64 of each index batch.

        A file that is missing, truncated or no image comes under the label `UNREADABLE`, never as an error: the one
        process that met it would stop alone, and the others wait for it. Who takes the batches counts them.

        Args:
            index_batches: Which images.
            seed: Of random crops: an image's crop depends on it and on the image's number, on nothing else.
        """
        if not index_batches:
            return
        loader = DataLoader(
            _FileBatches(self, index_batches, seed),
            batch_size=None,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_signals_to_the_loop,
            # The loader draws its workers' seed from a generator; an own one leaves the global state, which a
            # resumed run restores, alone.
            generator=torch.Generator().manual_seed(0),
        )
        for images, labels, unreadable in loader:
            for message in unreadable if self.max_unreadable else ():
                _LOGGER.warning("left out: %s", message)
            self.unreadable += unreadable
            yield images, labels

    def order(self, generator: Generator) -> Tensor:
        """Return all image numbers (N,) int64, shuffled; those of a few shards at a time where there are shards."""
        shuffled = torch.randperm(len(self), generator=generator)
        shards = sorted({source.shard for source in self.sources if isinstance(source, Member)})
        if len(shards) <= _SHARDS_TOGETHER:
            return shuffled
        turn = dict(zip(shards, torch.randperm(len(shards), generator=generator).tolist(), strict=True))
        turns = torch.tensor([turn[source.shard] for source in self.sources if isinstance(source, Member)])
        return shuffled[torch.argsort(turns[shuffled] // _SHARDS_TOGETHER, stable=True)]

    def subset(self, indices: Tensor) -> FileImages:
        """Return the images at `indices`, renumbered from 0."""
        return FileImages(
            [self.sources[index] for index in indices.tolist()],
            self.labels[indices],
            self.preprocessing,
            workers=self.workers,
            crops_at_random=self.crops_at_random,
            max_unreadable=self.max_unreadable,
        )

    def names(self, indices: Tensor) -> list[str]:
        """Return the paths of the images at `indices`."""
        return [str(self.sources[index]) for index in indices.tolist()]

    @property
    def starts_processes(self) -> bool:
        """Whether fetching batches starts loader processes."""
        return self.workers > 0

    def decode(self, index: int, seed: int | None) -> Tensor:
        """Return one image, cropped, as (3, H, W) uint8.

        Raises:
            InputError: it is missing, truncated or no image.
        """
        if seed is None or not self.crops_at_random:
            return decode(self.sources[index], self.preprocessing)
        generator = np.random.default_rng([seed, index])
        return _as_tensor(
            random_resized_crop(load_source(self.sources[index]), self.preprocessing.image_size, generator)
        )


class _Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    unreadable: list[str]


class _FileBatches(Dataset[_Batch]):
    """The batches of one pass; what was wrong with unreadable files comes as text.

    An exception that crosses from a loader process would arrive with that process's traceback as its text.
    """

    def __init__(self, files: FileImages, index_batches: Sequence[Tensor], seed: int | None) -> None:
        self._files, self._index_batches, self._seed = files, index_batches, seed

    def __len__(self) -> int:
        return len(self._index_batches)

    def __getitem__(self, number: int) -> _Batch:
        files, indices = self._files, self._index_batches[number]
        decoded: list[Tensor | None] = []
        unreadable: list[str] = []
        for index in indices.tolist():
            try:
                decoded.append(files.decode(index, self._seed))
            except ApsError as error:
                decoded.append(None)
                unreadable.append(str(error))
        labels = files.labels[indices].clone()
        labels[torch.tensor([image is None for image in decoded])] = UNREADABLE
        # Batch norms see the pixels that stand in, so they are those of an image.
        side = files.preprocessing.image_size
        spare = next((image for image in decoded if image is not None), torch.zeros(3, side, side, dtype=torch.uint8))
        # Stacks into shared memory where this is a loader process.
        stacked = default_collate([spare if image is None else image for image in decoded])
        return _Batch(stacked, labels, unreadable)


def _leave_signals_to_the_loop(worker: int) -> None:
    # Ctrl-C and batch systems signal the whole process group. A worker that dies raises in the middle of an
    # optimizer step, and the state saved then would be neither before nor after it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def decode(source: Source, preprocessing: Preprocessing) -> Tensor:
    """Return one image, resized and cropped, as (3, H, W) uint8.

    Raises:
        InputError: it is missing, truncated or no image.
    """
    return _as_tensor(preprocessing.crop(load_source(source)))


def _as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)


def open_images(
    sources: Sequence[Source],
    labels: Tensor,
    preprocessing: Preprocessing,
    *,
    workers: int,
    crops_at_random: bool = False,
    max_unreadable: int = 0,
) -> LabelledImages:
    """Return the images, in memory if they are small and few enough, else read from disk on every pass.

    Args:
        sources: Where each image lies.
        labels: (N,) int64 class numbers.
        preprocessing: Resize and crop.
        workers: Loader processes, where the images stay on disk.
        crops_at_random: Training draws random crops, so the images stay on disk.
        max_unreadable: So many images that cannot be read are skipped.

    Raises:
        InputError: more images than that cannot be read; where they stay on disk, the loop finds out.
    """
    side = preprocessing.image_size
    if crops_at_random or side > _MEMORY_LIMIT_SIDE or len(sources) * 3 * side * side > _MEMORY_LIMIT_BYTES:
        return FileImages(
            sources,
            labels,
            preprocessing,
            workers=workers,
            crops_at_random=crops_at_random,
            max_unreadable=max_unreadable,
        )
    images = torch.empty(len(sources), 3, side, side, dtype=torch.uint8)
    readable: list[int] = []
    unreadable: list[str] = []
    for number, source in enumerate(sources):
        try:
            images[len(readable)] = decode(source, preprocessing)
            readable.append(number)
        except InputError as error:
            if len(unreadable) >= max_unreadable:
                raise too_many_unreadable([*unreadable, str(error)], max_unreadable) from error
            _LOGGER.warning("left out: %s", error)
            unreadable.append(str(error))
    _LOGGER.debug("decoded %d images of %d x %d into memory", len(readable), side, side)
    names = [str(sources[number]) for number in readable]
    return MemoryImages(images[: len(readable)], labels[readable], names)
