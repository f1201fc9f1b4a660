"""How the tests marked `gpu` are run: only their files, with few packages, and with what they did written at once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aps_deploy.runtimes.availability import num_cuda_devices
from benchmarks.gpu import testing
from benchmarks.gpu.testing import ROOT, command, gpu_test_files, read_outcomes, run_tests

# What a machine with a GPU may lack of the extra "test" and of the runtimes.
HIDDEN = (
    *("tritonclient", "webdataset", "hypothesis", "openvino", "ray", "timm", "hatchling", "onnxslim", "schemathesis"),
    *("prometheus_client", "opentelemetry", "tensorrt", "tensorrt_rtx", "tensorrt_bindings", "uvicorn", "uvloop"),
    *("httptools", "yaml", "xdist", "pytest_timeout"),
)
BLOCKED = """
import importlib.util, sys, pytest
hidden, find_spec = sys.argv[1].split(","), importlib.util.find_spec
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
importlib.util.find_spec = lambda name, package=None: None if name in hidden else find_spec(name, package)
sys.exit(pytest.main(sys.argv[2:]))
"""
TESTS = """
import os, signal, time, pytest
pytestmark = pytest.mark.{mark}
def test_passes(): pass
def test_fails():
    assert 1 == 2, "on purpose"
def test_skips(): pytest.skip("no TensorRT here")
@pytest.fixture
def broken_end():
    yield
    raise OSError("the end")
def test_ends_badly(broken_end): pass
@pytest.mark.xfail(reason="known")
def test_known(): assert False
def test_last(): {last}
"""


def write_tests(root: Path, last: str = "pass") -> Path:
    """Write a folder with a file of `gpu` tests, one that cannot be imported, and one that is not to be."""
    (root / "tests").mkdir()
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["gpu: x"]\n')
    (root / "tests" / "test_some.py").write_text(TESTS.format(mark="gpu", last=last))
    (root / "tests" / "test_broken.py").write_text("import pytest, nowhere\npytestmark = pytest.mark." + "gpu\n")
    (root / "tests" / "test_left_out.py").write_text(TESTS.format(mark="slow", last="pass"))
    return root


@pytest.fixture(autouse=True)
def _ours_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.slow
def test_files_of_gpu_tests_are_collected_with_few_packages() -> None:
    files = gpu_test_files()
    assert {"tests/plugins/triton/test_on_gpu.py", "tests/serving/test_gpu.py"} <= set(files) and len(files) >= 10
    arguments = ["-m", "gpu", "--collect-only", "-q", "-rs", "-p", "no:cacheprovider", *files]
    # Without their entry points: the plugins of the hidden packages.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED, ",".join(HIDDEN), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
    assert "error" not in result.stdout.lower()
    assert "tests/serving/support.py" in result.stdout and "the server's packages are not installed" in result.stdout
    pytest.importorskip("triton")
    assert "test_on_gpu.py::test_every_property" in result.stdout


@pytest.mark.slow
@pytest.mark.skipif(num_cuda_devices() > 0, reason="there is a CUDA device")
def test_without_a_gpu_every_test_of_one_is_skipped_with_its_reason() -> None:
    arguments = ["-m", "gpu", "-q", "-rs", "-p", "no:cacheprovider", *gpu_test_files()]
    result = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr
    *lines, totals = result.stdout.splitlines()
    assert re.fullmatch(r"\d+ skipped, \d+ deselected in .*", totals), totals
    reasons = [line for line in lines if line.startswith("SKIPPED")]
    assert reasons and all(re.search("(finds|reports) no CUDA device|not installed", line) for line in reasons)


@pytest.mark.parametrize("processes", ["0", "2"])
def test_every_outcome_is_in_the_result(tmp_path: Path, processes: str) -> None:
    seen = list[dict[str, Any]]()
    outcomes = tmp_path / "out" / "outcomes.jsonl"
    arguments = ["-p", "no:cacheprovider", *(["-n", processes] if processes != "0" else ["-p", "no:xdist"])]
    if processes == "0":  # as where pytest-xdist is missing
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(testing.importlib.util, "find_spec", lambda name: None if name == "xdist" else object())
            status = run_tests(arguments, outcomes, seen.append, root=write_tests(tmp_path))
    else:
        pytest.importorskip("xdist")
        status = run_tests(arguments, outcomes, seen.append, root=write_tests(tmp_path))
    assert seen[0] == {"finished": False, "passed": 0, "failed": 0, "skipped": 0, "rows": []}
    assert status == 1 and seen[-1]["exit_status"] == 1 and seen[-1]["finished"]
    rows = {row.pop("test").rpartition("::")[2]: row for row in seen[-1]["rows"]}
    assert rows == {
        "tests/test_broken.py": {"outcome": "failed", "failed": "ModuleNotFoundError: No module named 'nowhere'"},
        "test_passes": {"outcome": "passed"},
        "test_fails": {"outcome": "failed", "failed": "AssertionError: on purpose"},
        "test_skips": {"outcome": "skipped", "skipped": "no TensorRT here"},
        "test_ends_badly": {"outcome": "failed", "failed": "OSError: the end"},
        "test_known": {"outcome": "skipped", "skipped": "known"},
        "test_last": {"outcome": "passed"},
    }
    assert (seen[-1]["passed"], seen[-1]["failed"], seen[-1]["skipped"]) == (2, 3, 2)
    told = [json.loads(line) for line in outcomes.read_text().splitlines()]
    assert any("def test_fails" in line.get("text", "") for line in told)


def test_a_test_that_takes_pytest_with_it_is_named(tmp_path: Path) -> None:
    seen = list[dict[str, Any]]()
    root = write_tests(tmp_path, last="os.kill(os.getpid(), signal.SIGKILL)")
    outcomes = tmp_path / "outcomes.jsonl"
    status = run_tests(["-n", "0", "-p", "no:cacheprovider"], outcomes, seen.append, root=root)
    assert status == seen[-1]["exit_status"] == -signal.SIGKILL
    last = seen[-1]["rows"][-1]
    assert last["test"].endswith("::test_last") and last["failed"] == "pytest ended in it (exit status -9)"
    assert seen[-1]["passed"] == 1 and seen[-1]["finished"]


def test_what_was_done_is_told_while_tests_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "_LOOK_EVERY_S", 0.05)
    go_on = tmp_path / "go-on"
    root = write_tests(tmp_path, last=f"[time.sleep(0.05) for _ in range(1200) if not os.path.exists({str(go_on)!r})]")
    seen = list[dict[str, Any]]()

    def report(part: dict[str, Any]) -> None:
        seen.append(part)
        if part["passed"] == 1:  # test_last is running, and waits for this
            go_on.touch()

    run_tests(["-n", "0", "-p", "no:cacheprovider"], tmp_path / "outcomes.jsonl", report, root=root)
    running = next(part for part in seen if part["passed"] == 1)
    assert not running["finished"] and seen[-1]["passed"] == 2


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    path.write_text('{"test": "a", "outcome": "started"}\n{"test": "a", "outcome": "pas')
    assert read_outcomes(path) == {"a": {"test": "a", "outcome": "started"}}


def test_without_pytest_the_result_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing.importlib.util, "find_spec", lambda name: None)
    seen = list[dict[str, Any]]()
    assert run_tests([], tmp_path / "outcomes.jsonl", seen.append) == 1
    assert seen[-1]["skipped"] == "pytest is not installed" and seen[-1]["rows"] == []


def test_a_named_file_is_the_only_one(tmp_path: Path) -> None:
    named = ["tests/bench/test_stopwatch.py", "-x"]
    assert command(named, tmp_path / "a")[-2:] == named
    assert command(["-k", "triton"], tmp_path / "a")[-1] == gpu_test_files()[-1]
