"""Many images through a session in batches: what evaluation and the consistency protocols call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.runtimes.session import LOGITS, Outputs


class Runner(Protocol):
    """The part of a session that is needed here."""

    def run(self, images: npt.NDArray[np.float32]) -> Outputs:
        """Return the outputs for images (N, 3, H, W)."""
        ...


class ImageSource(Protocol):
    """Images that are taken in parts: an array, or a folder whose images are decoded when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 3, H, W)."""
        ...

    def __len__(self) -> int:
        """Return N."""
        ...

    def __getitem__(self, rows: slice | npt.NDArray[np.intp], /) -> npt.NDArray[np.float32]:
        """Return the images (K, 3, H, W) at these K positions, float32."""
        ...


class Selected:
    """Some images of a source, in the order of ``rows``, taken from it when they are asked for.

    Args:
        images: where they come from.
        rows: (K,) their positions.
    """

    def __init__(self, images: ImageSource, rows: npt.NDArray[np.intp]) -> None:
        self._images, self._rows = images, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """(K, 3, H, W)."""
        return (len(self._rows), *self._images.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | npt.NDArray[np.intp], /) -> npt.NDArray[np.float32]:
        return self._images[self._rows[rows]]


def batches(count: int, batch_size: int) -> Iterator[slice]:
    """Yield slices that cover ``count`` rows, ``batch_size`` at a time; the last may be shorter.

    Raises:
        InputError: the batch size is not positive.
    """
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}; it must be at least 1.")
    for start in range(0, count, batch_size):
        yield slice(start, min(start + batch_size, count))


def iterate_outputs(session: Runner, images: ImageSource, *, batch_size: int = 64) -> Iterator[tuple[slice, Outputs]]:
    """Yield, batch by batch, which images were run and their outputs.

    Args:
        session: an open session.
        images: (N, 3, H, W) float32.
        batch_size: images per run; the last batch may be smaller.

    Raises:
        InputError: there are no images, the batch size is not positive, or the session does not take the images.
    """
    if len(images) == 0:
        raise InputError("there are no images to run; give at least one.")
    for part in batches(len(images), batch_size):
        yield part, session.run(images[part])


def run_batched(session: Runner, images: ImageSource, *, batch_size: int = 64) -> Outputs:
    """Return every output for all images, computed batch by batch; see `iterate_outputs`."""
    parts = [outputs for _, outputs in iterate_outputs(session, images, batch_size=batch_size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def predict_logits(session: Runner, images: ImageSource, *, batch_size: int = 64) -> npt.NDArray[np.float32]:
    """Return the (N, classes) float32 logits of all images, computed batch by batch; see `iterate_outputs`."""
    return np.concatenate([outputs[LOGITS] for _, outputs in iterate_outputs(session, images, batch_size=batch_size)])
