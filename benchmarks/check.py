"""Whether something became slower: measures anew and compares each ratio with the kept one (`./scripts/bench-check`).

    ./scripts/bench-check                    # a short setting of networks, layers and start-up: about four minutes
    ./scripts/bench-check --full             # everything that is kept, as it was measured: about half an hour
    ./scripts/bench-check --only startup

A ratio got worse where its new median lies on the wrong side of the kept one by more than the spread: the larger of the
two distances between quartiles, and at least 2 % of the kept median. Then everything of that benchmark is measured a
second time, in a new process (libraries choose their kernels at first use, so that processes differ by more than the
rounds within one), and what is worse both times makes the exit code 1. Ratios depend on the
processor; where the kept ones are of another one, nothing is judged and the exit code is 2, unless --any-machine is
given. Files of `benchmarks/results` are not changed: `--write` of each benchmark does that.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from aps_deploy.console import print_table
from benchmarks.machine import machine
from benchmarks.reporting import RESULTS_FOLDER, run_command

# What a short run measures of each benchmark; the settings are among the kept ones.
SHORT = {
    "networks": (
        *("--settings", "resnet20_aps3:32:64", "resnet18_aps3:224:1"),
        *("--runtimes", "onnxruntime", "torch", "--rounds", "10"),
    ),
    "layers": (
        *("--settings", "64x112x112:1", "128x56x56:16"),
        *("--runtimes", "onnxruntime", "torch", "--rounds", "10"),
    ),
    "startup": ("--rounds", "5"),
}
FULL: dict[str, tuple[str, ...]] = {"networks": (), "layers": (), "growth": (), "startup": ()}

# Below it a distance between quartiles says more of the clock than of the machine.
LEAST_SPREAD = 0.02

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Verdict:
    """One ratio, kept and new.

    Attributes:
        key: setting, runtime and ratio; of start-up what was measured.
        kept: median.
        new: median.
        allowed: the spread.
        is_worse: whether it got worse by more than that.
    """

    key: Key
    kept: float
    new: float
    allowed: float
    is_worse: bool


def ratios_of(document: Mapping[str, Any]) -> dict[Key, Mapping[str, Any]]:
    """Return the ratios of a benchmark's document, by setting, runtime and name; seconds are not among them."""
    found: dict[Key, Mapping[str, Any]] = {}
    for entry in document["measured"]:
        for ratio in entry.get("ratios", ()):
            found[entry["setting"], entry["runtime"], ratio["ratio"]] = ratio
        if entry.get("unit") == "ratio":
            found[entry["what"], "", ""] = entry
    return found


def compare(kept: Mapping[str, Any], new: Mapping[str, Any]) -> list[Verdict]:
    """Return a verdict on each ratio that both documents of one benchmark hold.

    Raises:
        ValueError: they hold none in common, so nothing would be judged.
    """
    before, now = ratios_of(kept), ratios_of(new)
    verdicts = [_verdict(key, before[key], now[key]) for key in now if key in before]
    if not verdicts:
        raise ValueError("no ratio that was measured is among the kept ones; keep them first with --write.")
    return verdicts


def milder(first: Sequence[Verdict], second: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts of the second measurement, but those of the first where only the second is worse."""
    before = {verdict.key: verdict for verdict in first}
    return [before.get(one.key, one) if one.is_worse else one for one in second]


def is_same_machine(kept: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Return whether two documents are of the same processor with the same number of cores."""
    return all(kept[name] == here[name] for name in ("processor", "cores"))


def _verdict(key: Key, kept: Mapping[str, Any], new: Mapping[str, Any]) -> Verdict:
    widths = [one["upper_quartile"] - one["lower_quartile"] for one in (kept, new)]
    allowed = max(*widths, LEAST_SPREAD * kept["median"])
    grown = new["median"] - kept["median"]
    worse_by = -grown if new.get("better") == "higher" else grown
    return Verdict(key, kept["median"], new["median"], allowed, worse_by > allowed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 nothing got worse, 1 something did, 2 something could not be judged and nothing did."""
    options = _options(arguments)
    chosen = FULL if options.full else SHORT
    codes = [_judge(name, chosen.get(name, ()), options.any_machine) for name in options.only or chosen]
    return 1 if 1 in codes else max(codes)


def _judge(name: str, arguments: Sequence[str], any_machine: bool) -> int:
    path = RESULTS_FOLDER / f"{name}.json"
    if not path.exists():
        print(f"{name}: nothing is kept; run python -m benchmarks.{name} --write first.")
        return 2
    kept = json.loads(path.read_text(encoding="utf-8"))
    if not any_machine and not is_same_machine(kept, machine()):
        print(f"{name}: kept on {kept['processor']} ({kept['cores']} cores), which this machine is not; not judged.")
        return 2
    try:
        verdicts = compare(kept, _measured(name, arguments))
        if any(verdict.is_worse for verdict in verdicts):
            print_table(table_of(f"{name}, once more", [verdict for verdict in verdicts if verdict.is_worse]))
            verdicts = milder(verdicts, compare(kept, _measured(name, arguments)))
    except ValueError as error:
        print(f"{name}: {error}")
        return 2
    print_table(table_of(name, verdicts))
    return 1 if any(verdict.is_worse for verdict in verdicts) else 0


def table_of(name: str, verdicts: Sequence[Verdict]) -> Table:
    """Return a table of the verdicts on one benchmark, those that got worse marked."""
    table = Table(title=f"{name}: kept and new ratios")
    for column in ("what", "runtime", "ratio", "kept", "new", "allowed", ""):
        table.add_column(column)
    for one in verdicts:
        numbers = (f"{number:.3f}" for number in (one.kept, one.new, one.allowed))
        table.add_row(*one.key, *numbers, "WORSE" if one.is_worse else "")
    return table


def _measured(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a benchmark in a process of its own and return its document."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / f"{name}.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", *arguments, "--write", str(result)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        document: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return document


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-check", description="Fails where a ratio got worse than the kept one.")
    parser.add_argument("--full", action="store_true", help="measure everything that is kept, not a short part of it")
    parser.add_argument("--only", nargs="+", choices=tuple(FULL), help="benchmarks [default: all]")
    parser.add_argument("--any-machine", action="store_true", help="judge by ratios kept on another processor, too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_command(main)
