"""Timing by ratio: what is compared runs once a round, in an order that turns, so that a slow moment hits all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 2,
    first: int = 0,
    least_s: float = 0.0,
) -> dict[str, list[float]]:
    """Return the seconds of every call in every round.

    Args:
        calls: what is compared, by name.
        rounds: how often each has its turn; the first to run changes from round to round.
        warm_up: runs of each beforehand that are not counted.
        first: which begins the first round.
        least_s: a turn lasts about as many seconds at least: a shorter call runs several times and its mean counts, and
            once more beforehand, since a runtime's idle threads keep a core busy for a while after the turn before.
    """
    names = list(calls)
    repeats = {}
    for name in names:
        for _ in range(warm_up):
            start = time.perf_counter()
            calls[name]()
            repeats[name] = max(1, math.ceil(least_s / (time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = (first + number) % len(names)
        for name in names[turn:] + names[:turn]:
            seconds[name].append(_mean_s(calls[name], repeats.get(name, 1)))
    return seconds


def _mean_s(call: Callable[[], object], repeats: int) -> float:
    if repeats > 1:
        call()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [one / other for one, other in zip(numerators, denominators, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the quartiles and the extremes."""
    quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {
        "median": statistics.median(values),
        "lower_quartile": quarters[0],
        "upper_quartile": quarters[2],
        "smallest": min(values),
        "largest": max(values),
    }


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return what half, 90 % and 99 % of the values do not exceed."""
    import numpy as np

    p50, p90, p99 = (float(value) for value in np.percentile(values, [50, 90, 99]))
    return p50, p90, p99
