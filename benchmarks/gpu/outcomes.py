"""A pytest plugin that writes each outcome as it comes, so that a run which is killed leaves what it did.

    pytest -p benchmarks.gpu.outcomes --outcomes-to FILE

One JSON object a line: ``test``, ``outcome`` (started, passed, failed, skipped), ``reason``, ``text`` (the traceback).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes-to", type=Path, metavar="FILE", help="write each outcome to this file as it comes")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--outcomes-to")
    if path is not None:
        config.pluginmanager.register(_Outcomes(path, is_worker=hasattr(config, "workerinput")))


class _Outcomes:
    def __init__(self, path: Path, *, is_worker: bool) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._is_worker = is_worker

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if not self._is_worker:  # pytest-xdist repeats these calls in the process that leads
            self._add(nodeid, "started")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self._is_worker and (report.when == "call" or not report.passed):
            self._add_report(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:  # in workers, too: these skip a file without a word to the process that leads
            self._add_report(report)

    def _add_report(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        text = report.longreprtext if report.failed else ""
        self._add(report.nodeid, report.outcome, _reason(report), text)

    def _add(self, test: str, outcome: str, reason: str = "", text: str = "") -> None:
        line = {"test": test, "outcome": outcome, "reason": reason, "text": text}
        print(json.dumps({key: value for key, value in line.items() if value}), file=self._file, flush=True)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if report.passed:
        return ""
    if report.skipped:
        told = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
        return str(told).removeprefix("Skipped: ")
    lines = report.longreprtext.splitlines()
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return next(iter(errors or lines[-1:]), "")
