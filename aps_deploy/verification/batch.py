"""Does an image's answer depend on the company it keeps? Batch size, batch slot, and plain repetition."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.batching import ImageSource, Runner
from aps_deploy.verification.comparing import (
    Images,
    Logits,
    finite_or_none,
    identical_rows,
    largest_difference,
    logits_of,
    tolerance_excess,
)

DEFAULT_IMAGES = 8


@dataclasses.dataclass(frozen=True)
class BatchDifference:
    """Largest logit difference of one comparison.

    Attributes:
        max_abs: largest absolute difference; infinite where a logit is not finite.
        excess: largest |difference| / (atol + rtol |logit|); 0 only where nothing differs.
        identical: whether all compared rows have the same bits.
    """

    max_abs: float
    excess: float
    identical: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        return {
            "max_abs": finite_or_none(self.max_abs),
            "excess": finite_or_none(self.excess),
            "identical": self.identical,
        }


@dataclasses.dataclass(frozen=True)
class BatchResult:
    """How logits depend on the batch around an image.

    Attributes:
        num_images: images used.
        batch_size: size N of the large batch.
        repeat: the same batch, run twice.
        size: each image alone against the same image in the batch of N.
        slot: the first image of a batch against the same image in its last slot.
        identical_rows: one image N times in one batch, all rows against the first.
    """

    num_images: int
    batch_size: int
    repeat: BatchDifference
    size: BatchDifference
    slot: BatchDifference
    identical_rows: BatchDifference

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        differences = {name: getattr(self, name).to_dict() for name in ("repeat", "size", "slot", "identical_rows")}
        return {"num_images": self.num_images, "batch_size": self.batch_size, **differences}


def check_batches(
    runner: Runner,
    images: ImageSource,
    *,
    atol: float = 1e-4,
    rtol: float = 1e-3,
    num_images: int = DEFAULT_IMAGES,
) -> BatchResult:
    """Return how the outputs for the first ``num_images`` of ``images`` (N, 3, H, W) depend on their batch.

    The batch is of odd size, so that rows left over from a kernel's blocks of two, four or eight are among those
    tested; few images are repeated.

    Raises:
        InputError: there are no images.
        ApsError: the runner returned no logits.
    """
    if len(images) == 0:
        raise InputError("batch checks need at least one image.")
    few: Images = images[:num_images]
    size = max(len(few), 5) | 1
    batch = np.ascontiguousarray(np.resize(few, (size, *few.shape[1:])))
    together = logits_of(runner, batch)
    alone = np.concatenate([logits_of(runner, batch[row : row + 1]) for row in range(len(few))])
    reversed_rows = logits_of(runner, np.ascontiguousarray(batch[::-1]))[::-1]
    copies = [logits_of(runner, np.repeat(few[row : row + 1], size, axis=0)) for row in sorted({0, len(few) - 1})]
    firsts = [np.repeat(rows[:1], size, axis=0) for rows in copies]

    def difference(first: Logits, second: Logits) -> BatchDifference:
        return _difference(first, second, atol, rtol)

    return BatchResult(
        num_images=len(few),
        batch_size=size,
        repeat=difference(together, logits_of(runner, batch)),
        size=difference(alone, together[: len(few)]),
        slot=difference(together, reversed_rows),
        identical_rows=difference(np.concatenate(copies), np.concatenate(firsts)),
    )


def _difference(first: Logits, second: Logits, atol: float, rtol: float) -> BatchDifference:
    if first.shape != second.shape:
        raise ApsError(f"the model returned logits of shapes {first.shape} and {second.shape} for equal batches.")
    return BatchDifference(
        max_abs=float(largest_difference(first, second).max(initial=0.0)),
        excess=float(tolerance_excess(first, second, atol, rtol).max(initial=0.0)),
        identical=bool(identical_rows(first, second).all()),
    )
