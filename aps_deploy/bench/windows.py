"""From single requests to figures: windows of equal length, and when enough of them agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from aps_deploy.bench.timing import percentiles

NUM_AGREEING = 3
"""Windows in a row that have to agree."""


@dataclasses.dataclass
class Window:
    """What happened in one stretch of time.

    Attributes:
        seconds: its length.
        latencies_ms: of the answered requests that ended in it.
        refused: requests that the server refused for the moment.
        client_cpu_s: processor time of the client's process.
    """

    seconds: float = 0.0
    latencies_ms: list[float] = dataclasses.field(default_factory=list)
    refused: int = 0
    client_cpu_s: float = 0.0

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return len(self.latencies_ms) / self.seconds


def agree(windows: Sequence[Window], tolerance: float) -> bool:
    """Tell whether the last windows' rates are all within ``tolerance`` (a share) of their mean."""
    return all_near([window.rate for window in windows[-NUM_AGREEING:]], tolerance)


def all_near(values: Sequence[float], tolerance: float) -> bool:
    """Tell whether there are enough values, each within ``tolerance`` (a share) of their mean."""
    mean = sum(values) / NUM_AGREEING
    return len(values) == NUM_AGREEING and mean > 0 and all(abs(value - mean) <= tolerance * mean for value in values)


def joined(windows: Sequence[Window]) -> Window:
    """Return several windows as one."""
    return Window(
        sum(window.seconds for window in windows),
        [latency for window in windows for latency in window.latencies_ms],
        sum(window.refused for window in windows),
        sum(window.client_cpu_s for window in windows),
    )


@dataclasses.dataclass(frozen=True)
class Level:
    """What was measured with one number of clients.

    Attributes:
        concurrency: clients, each with one request on its way.
        is_stable: whether the windows agreed before there were too many of them.
        requests_per_s: answered requests per second.
        images_per_s: images in them.
        p50_ms: half of the answered requests took at most so long; `p90_ms`, `p99_ms` alike. None without an answer.
        answered: requests answered in the windows that count.
        refused: requests in them that the server refused for the moment.
        failed: requests without an answer for any other reason, from the first request to the last.
        wrong: answers, alike, that differ from the reference answer in at least one bit.
        client_cpu: processor time of the client per second, in cores.
        rates: requests per second of every window, those that do not count too.
    """

    concurrency: int
    is_stable: bool
    requests_per_s: float
    images_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    answered: int
    refused: int
    failed: int
    wrong: int
    client_cpu: float
    rates: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self)


def level_of(
    concurrency: int, windows: Sequence[Window], *, failed: int, wrong: int, batch_size: int, tolerance: float
) -> Level:
    """Return the figures of the last windows."""
    counted = joined(windows[-NUM_AGREEING:])
    times: tuple[float | None, float | None, float | None] = (None, None, None)
    if counted.latencies_ms:
        times = percentiles(counted.latencies_ms)
    return Level(
        concurrency,
        agree(windows, tolerance),
        counted.rate,
        counted.rate * batch_size,
        *times,
        len(counted.latencies_ms),
        counted.refused,
        failed,
        wrong,
        counted.client_cpu_s / counted.seconds,
        tuple(window.rate for window in windows),
    )
