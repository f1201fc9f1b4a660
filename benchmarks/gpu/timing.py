"""Seconds of work on a GPU, by its own clock, of several calls in turns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch


def seconds_in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 3
) -> dict[str, list[float]]:
    """Return the seconds of each call in each round; the order turns, and compilation falls into the warm-up."""
    names = list(calls)
    for name in names * warm_up:
        calls[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seconds[name].append(_seconds(calls[name]))
    return seconds


def _seconds(call: Callable[[], object]) -> float:
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    # The device is busy while the launches below are queued, so that the time of launching is not counted; and its
    # cache forgets the maps of the turn before.
    _busy_work().mul_(1)
    start.record()
    call()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1e3


@functools.cache
def _busy_work() -> torch.Tensor:
    return torch.zeros(2**28, device="cuda")  # 1 GiB: a few hundred microseconds or more
