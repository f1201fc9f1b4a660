"""The times of one model's runs: on a GPU by CUDA events, elsewhere by the host's clock; and when they have settled."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from aps_deploy.bench.timing import interleaved
from aps_deploy.bench.windows import NUM_AGREEING, all_near
from aps_deploy.runtimes.device_span import measured_span
from aps_deploy.runtimes.session import Session

ClockName = Literal["host", "CUDA events"]

TOLERANCE = 0.1
"""A model's windows agree where their medians are within a tenth of their mean, as those of a server's load."""


class Stopwatch:
    """A session and the times of its runs; calling it runs the images once.

    Args:
        session: an open session.
        images: (N, 3, H, W) float32.
        rounds: runs that make a window.

    Attributes:
        host_s: seconds of every call by the host's clock: images from, and answers in, the computer's memory.
        device_s: seconds of the GPU's work in it, by events on the session's stream; empty on a CPU.
    """

    def __init__(self, session: Session, images: npt.NDArray[np.float32], rounds: int) -> None:
        self.session = session
        self._images = images
        self._rounds = rounds
        self.host_s: list[float] = []
        self.device_s: list[float] = []

    def __call__(self) -> None:
        """Run the images and keep the times; the events are waited for when the host's clock has stopped."""
        with measured_span() as span:
            start = time.perf_counter()
            self.session.run(self._images)
            self.host_s.append(time.perf_counter() - start)
        device_s = span.seconds()
        if device_s is not None:
            self.device_s.append(device_s)

    def forget(self) -> None:
        """Drop the times so far: those of warming up."""
        self.host_s.clear()
        self.device_s.clear()

    @property
    def clock(self) -> ClockName:
        """What tells its times."""
        return "CUDA events" if self.device_s else "host"

    @property
    def seconds(self) -> list[float]:
        """The times by its clock."""
        return self.device_s or self.host_s

    @property
    def window_medians_s(self) -> list[float]:
        """The median of each window, by its clock."""
        starts = range(0, len(self.seconds), self._rounds)
        return [statistics.median(self.seconds[start : start + self._rounds]) for start in starts]

    @property
    def is_stable(self) -> bool:
        """Whether the last windows agree."""
        return all_near(self.window_medians_s[-NUM_AGREEING:], TOLERANCE)


def run_until_stable(watches: Sequence[Stopwatch], rounds: int, *, warm_up: int, max_windows: int) -> int:
    """Run all models in turns, window by window, until the last three windows of each agree; return how many were run.

    Args:
        watches: the models; their times are kept in them.
        rounds: runs of each in a window.
        warm_up: runs of each beforehand that are not counted.
        max_windows: windows after which it ends in any case.
    """
    calls = {str(number): watch for number, watch in enumerate(watches)}
    interleaved(calls, warm_up, warm_up=0)
    for watch in watches:
        watch.forget()
    for number in range(max_windows):
        # The turn of who begins goes on from window to window.
        interleaved(calls, rounds, warm_up=0, first=number * rounds)
        if all(watch.is_stable for watch in watches):
            return number + 1
    return max_windows
