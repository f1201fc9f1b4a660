"""Logits of two runs side by side: which rows are finite, which have the same bits, how far the others differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError
from aps_deploy.runtimes.batching import Runner
from aps_deploy.runtimes.session import LOGITS
from aps_deploy.verification.shifts import Offset

Images = npt.NDArray[np.float32]
Logits = npt.NDArray[np.floating[Any]]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done and how much there is."""


def logits_of(runner: Runner, images: Images) -> Logits:
    """Return the logits (N, classes) for images (N, 3, H, W) of one batch, as an array of the caller's own.

    Raises:
        ApsError: the runner returned no logits, or not one row per image.
    """
    outputs = runner.run(images)
    if LOGITS not in outputs:
        raise ApsError(f"the model returned no logits; its outputs are {', '.join(sorted(outputs)) or 'none'}.")
    logits = outputs[LOGITS]
    if logits.ndim != 2 or len(logits) != len(images):
        raise ApsError(f"the model returned logits of shape {logits.shape} for {len(images)} images.")
    # A copy: a session may lend its buffers until the next run.
    return np.array(logits)


def roll(images: Images, offset: Offset) -> Images:
    """Return images (N, C, H, W) moved circularly by (dy, dx) pixels."""
    return np.roll(images, offset, axis=(2, 3))


def finite_rows(*logits: Logits) -> npt.NDArray[np.bool_]:
    """Return (N,) whether the row is finite in all of the arrays (N, K)."""
    return np.asarray(np.stack([np.isfinite(values).all(axis=1) for values in logits]).all(axis=0))


def identical_rows(first: Logits, second: Logits) -> npt.NDArray[np.bool_]:
    """Return (N,) whether two arrays (N, K) of one dtype have the same bits in each row."""
    if first.dtype != second.dtype:
        return np.zeros(len(first), dtype=bool)
    bits = [np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1) for array in (first, second)]
    return np.asarray((bits[0] == bits[1]).all(axis=1))


def largest_difference(first: Logits, second: Logits) -> npt.NDArray[np.float64]:
    """Return (N,) the largest absolute difference in each row, infinite where either row is not finite."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(first.astype(np.float64) - second.astype(np.float64)).max(axis=1, initial=0.0)
    return np.where(finite_rows(first, second), difference, np.inf)


def tolerance_excess(values: Logits, reference: Logits, atol: float, rtol: float) -> npt.NDArray[np.float64]:
    """Return (N, K) |values - reference| / (atol + rtol |reference|), infinite in rows that are not finite.

    Equal numbers have no excess and unequal ones some, also where both tolerances are 0.
    """
    ours, theirs = values.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.abs(ours - theirs)
        excess = np.where(difference > 0, difference / (atol + rtol * np.abs(theirs)), 0.0)
    return np.where(finite_rows(ours, theirs)[:, None], excess, np.inf)


def finite_or_none(value: float | None) -> float | None:
    """Return ``value``, or None for NaN and infinity, which JSON does not have."""
    return value if value is not None and np.isfinite(value) else None
