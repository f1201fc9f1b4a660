"""Runs the tests marked `gpu` and tells how each ended, also while they run."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.result import one_line

ROOT = Path(__file__).parents[2]
OUTCOMES = "gpu-tests.jsonl"
_MARK = "pytest.mark." + "gpu"
_LOOK_EVERY_S = 2.0
_MOST_PROCESSES = 8  # each has a CUDA context and compiles kernels

Report = Callable[[dict[str, Any]], None]


def run_tests(arguments: Sequence[str], outcomes: Path, report: Report, *, root: Path = ROOT) -> int:
    """Run the tests marked `gpu`, and hand over the part of the result that they are, again and again.

    Args:
        arguments: for pytest, after ours; with paths among them, only these are collected.
        outcomes: the file of `benchmarks.gpu.outcomes`, written anew.
        report: takes the part.
        root: the folder with ``tests``.

    Returns:
        pytest's exit status; 1 where there is no pytest.
    """
    if importlib.util.find_spec("pytest") is None:
        report({**part_of({}), "finished": True, "skipped": "pytest is not installed"})
        return 1
    outcomes.parent.mkdir(parents=True, exist_ok=True)
    outcomes.write_text("", encoding="utf-8")
    report(part_of({}))
    environment = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **os.environ}
    with subprocess.Popen(command(arguments, outcomes, root), cwd=root, env=environment) as process:
        status: int | None = None
        while status is None:
            try:
                status = process.wait(_LOOK_EVERY_S)
            except subprocess.TimeoutExpired:
                report(part_of(read_outcomes(outcomes)))
    ended = read_outcomes(outcomes)
    for outcome in ended.values():
        if outcome["outcome"] == "started":
            outcome.update(outcome="failed", failed=f"pytest ended in it (exit status {status})")
    report({**part_of(ended), "finished": True, "exit_status": status})
    return status


def command(arguments: Sequence[str], outcomes: Path, root: Path = ROOT) -> list[str]:
    """Return the pytest command: the files with tests marked `gpu`, in several processes where pytest-xdist is."""
    has_xdist = importlib.util.find_spec("xdist") is not None
    spread = ["-n", "auto", "--maxprocesses", str(_MOST_PROCESSES)] if has_xdist else []
    ours = ["-v", "-m", "gpu", "--continue-on-collection-errors", "-p", "benchmarks.gpu.outcomes"]
    ours += ["--outcomes-to", str(outcomes.resolve())]
    files = [] if any(argument.startswith("tests") for argument in arguments) else gpu_test_files(root)
    return [sys.executable, "-m", "pytest", *ours, *spread, *arguments, *files]


def gpu_test_files(root: Path = ROOT) -> list[str]:
    """Return the files that hold a test marked `gpu`: the others may need packages that a GPU machine lacks."""
    return [
        path.relative_to(root).as_posix()
        for path in sorted(root.glob("tests/**/test_*.py"))
        if _MARK in path.read_text(encoding="utf-8")
    ]


def read_outcomes(path: Path) -> dict[str, dict[str, Any]]:
    """Return the row of each test in an outcome file, the last line of which may be half written."""
    found: dict[str, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue
        name, outcome, before = told["test"], told["outcome"], found.get(told["test"])
        # What broke at the end of a test that had passed counts; nothing else follows an outcome.
        if before is not None and before["outcome"] != "started" and outcome != "failed":
            continue
        reason = {outcome: one_line(told.get("reason", ""))} if outcome in ("failed", "skipped") else {}
        found[name] = {"test": name, "outcome": outcome, **reason}
    return found


def part_of(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the part of a result that says how tests ended, so far: not finished."""
    counts = Counter(str(row["outcome"]) for row in found.values())
    totals = {outcome: counts[outcome] for outcome in ("passed", "failed", "skipped")}
    return {"finished": False, **totals, "rows": list(found.values())}
