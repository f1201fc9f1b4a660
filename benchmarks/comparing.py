"""From interleaved runs to records: seconds of every network, ratios with their bars, one table for all benchmarks.

A record is `{"setting", "runtime", "seconds": {name: spread}, "ratios": [{"ratio", "better", **spread, bar...}]}`; the
guard (`benchmarks.check`) compares the ratios of two records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table

from aps_deploy.bench.timing import interleaved, ratios, spread
from benchmarks.calls import Call
from benchmarks.reporting import cells, judged


@dataclass(frozen=True)
class Pair:
    """A ratio that matters: the seconds of one network over those of another.

    Attributes:
        one: numerator.
        other: denominator.
        better: which way is an improvement.
        at_most: the project's bar, where smaller is better.
        at_least: the project's bar, where larger is better.
    """

    one: str
    other: str
    better: Literal["lower", "higher"] = "lower"
    at_most: float | None = None
    at_least: float | None = None


def record(
    setting: str,
    runtime: str,
    calls: Mapping[str, Call],
    pairs: Iterable[Pair],
    rounds: int,
    *,
    least_s: float = 0.0,
) -> dict[str, Any]:
    """Run everything in turns and return the record.

    Args:
        setting: what was run, as the option spells it.
        runtime: where.
        calls: the networks.
        pairs: ratios wanted; those of a network that is not among the calls are left out.
        rounds: turns of each.
        least_s: see `interleaved`.
    """
    seconds = interleaved(calls, rounds, least_s=least_s)
    return {
        "setting": setting,
        "runtime": runtime,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratios": [_compared(seconds, pair) for pair in pairs if {pair.one, pair.other} <= set(seconds)],
    }


def _compared(seconds: Mapping[str, list[float]], pair: Pair) -> dict[str, Any]:
    found = spread(ratios(seconds[pair.one], seconds[pair.other]))
    bars = judged(found, at_most=pair.at_most, at_least=pair.at_least)
    return {"ratio": f"{pair.one}/{pair.other}", "better": pair.better, **bars}


def table_of(
    measured: Iterable[dict[str, Any]], title: str = "ratios of interleaved runs: median (quartiles)"
) -> Table:
    """Return a table with a row for each ratio."""
    table = Table(title=title)
    for column in ("setting", "runtime", "ms, lpf", "ratio", "median", "quartiles", "bar", ""):
        table.add_column(column)
    for entry in measured:
        milliseconds = f"{1e3 * entry['seconds']['lpf']['median']:.3f}"
        for found in entry["ratios"]:
            table.add_row(entry["setting"], entry["runtime"], milliseconds, found["ratio"], *cells(found))
    return table
