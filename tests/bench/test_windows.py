"""Figures of windows, by hand."""

from __future__ import annotations

import pytest

from aps_deploy.bench.windows import Window, agree, level_of


def window(count: int, latency_ms: float = 1.0) -> Window:
    return Window(seconds=0.5, latencies_ms=[latency_ms] * count, refused=2, client_cpu_s=0.1)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((100, 100), False),
        ((100, 100, 100), True),
        ((100, 109, 91), True),
        ((100, 112, 88), False),
        ((1, 100, 100, 100), True),
        ((0, 0, 0), False),
    ],
)
def test_the_last_three_windows_have_to_agree(counts: tuple[int, ...], expected: bool) -> None:
    assert agree([window(count) for count in counts], 0.1) is expected


def test_the_figures_are_those_of_the_last_three() -> None:
    windows = [window(1000, 50.0), window(90, 1.0), window(100, 2.0), window(110, 3.0)]
    level = level_of(8, windows, failed=1, wrong=2, batch_size=4, tolerance=0.1)
    assert (level.requests_per_s, level.images_per_s) == (200.0, 800.0)
    assert (level.p50_ms, level.p99_ms, level.answered, level.refused) == (2.0, 3.0, 300, 6)
    assert (level.failed, level.wrong, level.is_stable) == (1, 2, True)
    assert level.client_cpu == pytest.approx(0.2)
    assert level.rates == (2000.0, 180.0, 200.0, 220.0)


def test_nothing_was_answered() -> None:
    level = level_of(8, [window(0)] * 3, failed=0, wrong=0, batch_size=1, tolerance=0.1)
    assert level.p50_ms is None and level.requests_per_s == 0 and not level.is_stable
