"""Counts kept on the way are those of all pairs kept to the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aps_deploy.runtimes.batching import batches
from aps_deploy.verification.comparing import identical_rows, largest_difference
from aps_deploy.verification.consistency_tally import Tally

COUNT, SHIFTS, CLASSES = 11, 6, 3


def _logits(seed: int) -> np.ndarray:
    """Return (1 + SHIFTS, COUNT, CLASSES) float32 of few values: equal rows, NaN, both zeros."""
    generator = np.random.default_rng(seed)
    logits = generator.integers(0, 2, (1 + SHIFTS, COUNT, CLASSES)).astype(np.float32)
    logits[generator.random(logits.shape) < 0.02] = np.nan
    logits[(logits == 0) & (generator.random(logits.shape) < 0.2)] = -0.0
    same = generator.random((SHIFTS, COUNT)) < 0.5
    logits[1:][same] = np.broadcast_to(logits[0], (SHIFTS, COUNT, CLASSES))[same]
    return logits


def _all_pairs(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Return the properties (COUNT, SHIFTS) of every pair."""
    base = logits[0]
    finite = np.stack([np.isfinite(base).all(1) & np.isfinite(each).all(1) for each in logits[1:]], axis=1)
    changed = np.stack([base.argmax(1) != each.argmax(1) for each in logits[1:]], axis=1) | ~finite
    identical = np.stack([identical_rows(base, each) for each in logits[1:]], axis=1) & finite
    change = np.stack([largest_difference(base, each) for each in logits[1:]], axis=1)
    return {"finite": finite, "changed": changed, "identical": identical, "change": change}


@pytest.mark.parametrize("tied_share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_counts_are_those_of_all_pairs(seed: int, tied_share: float) -> None:
    logits = _logits(seed)
    tied = np.random.default_rng(seed + 100).random(COUNT) < tied_share
    free = ~tied
    tally = Tally(tied, SHIFTS)
    for rows in batches(COUNT, 4):
        for shift in range(SHIFTS):
            tally.add(rows, shift, logits[0][rows], logits[1 + shift][rows])
    pairs = _all_pairs(logits)
    np.testing.assert_array_equal(tally.changed, pairs["changed"][free].sum(axis=0))
    np.testing.assert_array_equal(tally.not_identical, (~pairs["identical"][free]).sum(axis=0))
    np.testing.assert_array_equal(tally.change, pairs["change"][free].max(axis=0, initial=0.0))
    assert tally.non_finite == (~pairs["finite"]).sum()
    assert tally.tied_agreeing == (~pairs["changed"][tied]).sum()
    assert tally.tied_identical == pairs["identical"][tied].sum()
    assert tally.worst_pair == _worst(pairs, free)
    worst = [(int(pairs["changed"][i].sum()), float(pairs["change"][i].max()), int(i)) for i in np.flatnonzero(free)]
    assert tally.worst_image == (max(worst)[2] if worst else None)


def _worst(pairs: dict[str, np.ndarray], free: np.ndarray) -> tuple[Any, ...] | None:
    """Return the worst pair by a plain loop in which only a worse one takes the place of an earlier one."""
    worst = None
    for image in np.flatnonzero(free):
        for shift in range(SHIFTS):
            changed, identical = bool(pairs["changed"][image, shift]), bool(pairs["identical"][image, shift])
            change = float(pairs["change"][image, shift])
            key = (changed, change, not identical)
            if worst is None or key > worst[0]:
                worst = (key, (int(image), shift, changed, identical, change))
    return None if worst is None else worst[1]
