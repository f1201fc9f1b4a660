"""What `scripts/gpu-test` leaves, as far as a machine without a GPU can write it."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aps_deploy.bench.files import FileSettings
from aps_deploy.errors import InputError
from aps_deploy.export.engines import engine_export
from benchmarks import selection_bandwidth
from benchmarks.gpu import report
from benchmarks.gpu.result import ROW_KEYS, attempted
from benchmarks.gpu.testing import ROOT
from benchmarks.reporting import gpu_file_name
from tests.export.engines.fake_tensorrt import fake_toolkit


def run(monkeypatch: pytest.MonkeyPatch, output: Path, *options: str) -> int:
    monkeypatch.setattr(report, "first_gpu", lambda: None)
    short = ("--device", "cpu", "--batch-size", "2", "--rounds", "1", "--output", str(output))
    monkeypatch.setattr(sys, "argv", ["gpu", *options, *short])
    return report.main()


def parts_of(output: Path) -> dict[str, Any]:
    parts: dict[str, Any] = json.loads((output / "cpu.json").read_text(encoding="utf-8"))["parts"]
    return parts


def test_a_short_run_leaves_a_whole_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(selection_bandwidth, "why_not_here", lambda: "torch finds no CUDA device here")
    monkeypatch.setattr(report, "run_tests", lambda arguments, outcomes, put: put({"finished": True, "rows": []}) or 0)
    pair = ("--pairs", "resnet20_aps2:resnet20", "--runtimes", "torch", "onnxruntime-tensorrt")
    assert run(monkeypatch, tmp_path, *pair) == 0
    document = json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"))
    assert document["environment"]["device"] == "cpu" and document["environment"]["versions"]["torch"]
    parts = document["parts"]
    assert list(parts) == list(ROW_KEYS) and all(part["finished"] for part in parts.values())
    assert parts["bits"]["skipped"] == "torch finds no CUDA device here"
    measured, left_out = parts["networks"]["rows"]
    assert (measured["arch"], measured["against"], measured["clock"]) == ("resnet20_aps2", "resnet20", "host")
    assert measured["image_size"] == 32 and measured["p50_ms"] > 0 and measured["median"] > 0
    assert "at_most" not in measured  # the bar is for a GPU
    assert "cannot run on 'cpu'" in left_out["skipped"] and left_out["runtime"] == "onnxruntime-tensorrt"
    assert capsys.readouterr().out == f"{tmp_path / 'cpu.json'}\n"


@pytest.mark.parametrize(
    ("runtime", "form"),
    [
        ("torch", None),
        pytest.param("onnxruntime", "where", marks=pytest.mark.slow),
        ("tensorrt", engine_export.DEFAULT_FORM),
    ],
)
def test_networks_are_timed_in_the_form_that_the_command_gives_them(
    runtime: str, form: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_export, "check_toolkit", lambda _: None)
    monkeypatch.setattr(engine_export, "load_toolkit", lambda _: fake_toolkit())
    found: list[str] = []

    def measured(settings: FileSettings) -> Any:
        found.extend(form_of(Path(file)) for file in settings.files if not file.endswith(".safetensors"))
        times = {"clock": "host", "is_stable": True, "p50_ms": 1.0, "images_per_s": 1.0, "ratio": {"median": 1.0}}
        return SimpleNamespace(image_size=32, measured=[SimpleNamespace(**times)] * 2)

    def form_of(file: Path) -> str:
        return str(json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["metadata"]["polyphase"])

    monkeypatch.setattr(report, "measure_files", measured)
    row = report.beside("resnet20_aps2", "resnet20", runtime, device="cpu", batch_size=2, rounds=1)
    assert row["polyphase"] == form and found == [form] * (form is not None)


def test_parts_of_several_commands_are_one_result_and_what_breaks_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*names: str, **settings: Any) -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(report, "run_tests", lambda arguments, outcomes, put: put({"rows": [{"test": "a"}]}) or 1)
    assert run(monkeypatch, tmp_path, "--only", "tests") == 1
    monkeypatch.setattr(report, "beside", broken)
    assert run(monkeypatch, tmp_path, "--only", "networks", "--pairs", "a:b", "--runtimes", "torch", "tensorrt") == 1
    parts = parts_of(tmp_path)
    assert parts["tests"]["rows"] == [{"test": "a"}]
    failed = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    assert [row["failed"] for row in parts["networks"]["rows"]] == [failed] * 2
    assert capsys.readouterr().err.count(f"benchmarks.gpu: networks: {failed}\n") == 2

    other = tmp_path / "other"
    monkeypatch.setattr(report, "beside", lambda *names, **settings: {"median": math.inf})
    assert run(monkeypatch, other, "--only", "networks", "--pairs", "a:b", "c:d", "--runtimes", "torch") == 0
    assert run(monkeypatch, tmp_path, "--join", str(tmp_path / "cpu.json"), str(other / "cpu.json")) == 0
    rows = parts_of(tmp_path)["networks"]["rows"]
    assert [(row["arch"], row["runtime"], "failed" in row) for row in rows] == [
        ("a", "torch", False),
        ("a", "tensorrt", True),
        ("c", "torch", False),
    ]
    assert rows[0]["median"] is None and parts_of(tmp_path)["tests"]["rows"]


def test_a_part_that_breaks_between_its_rows_does_not_take_the_next_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> str:
        raise RuntimeError("no compiler\nfor this GPU")

    monkeypatch.setattr(selection_bandwidth, "why_not_here", broken)
    monkeypatch.setattr(report, "beside", lambda *names, **settings: {"median": 1.0})
    pair = ("--pairs", "a:b", "--runtimes", "torch")
    assert run(monkeypatch, tmp_path, "--only", "bits", "--only", "networks", *pair) == 1
    parts = parts_of(tmp_path)
    assert parts["bits"] == {"finished": False, "rows": [], "failed": "RuntimeError: no compiler for this GPU"}
    assert parts["networks"]["finished"] and parts["networks"]["rows"][0]["median"] == 1.0
    assert "Traceback" in capsys.readouterr().err


def test_results_of_another_environment_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cpu.json"
    path.write_text('{"environment": {"device": "cpu"}, "parts": {}}')
    assert run(monkeypatch, tmp_path, "--only", "networks") == 2
    assert "measured in another environment" in capsys.readouterr().err
    path.write_text('{"environment": {"device": "cpu"}, "measured": []}')
    assert run(monkeypatch, tmp_path, "--only", "networks") == 2
    assert "is no result of benchmarks.gpu ('parts')" in capsys.readouterr().err


def test_arguments_of_pytest_need_the_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, tmp_path, "--only", "bits", "-k", "triton")
    assert stopped.value.code == 2


def test_a_run_that_is_killed_leaves_the_rows_it_measured(tmp_path: Path) -> None:
    """Killed within its third row, with no chance to write anything more."""
    code = (
        "import os, sys; from pathlib import Path; from benchmarks.gpu.result import Result\n"
        "def row(number):\n"
        "    if number == 2: os.kill(os.getpid(), 9)\n"
        "    return {'value': float('nan')}\n"
        "entries = (({'setting': str(n)}, lambda n=n: row(n)) for n in range(4))\n"
        "Result(Path(sys.argv[1]), {}).fill('bandwidth', entries, rounds=1)"
    )
    path = tmp_path / "gpu.json"
    result = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert result.stderr.splitlines()[-1] == "bandwidth: 2"
    part = json.loads(path.read_text(encoding="utf-8"))["parts"]["bandwidth"]
    rows = [{"setting": "0", "value": None}, {"setting": "1", "value": None}]
    assert part == {"finished": False, "rounds": 1, "rows": rows}


def test_an_error_is_one_line_and_a_refusal_is_none() -> None:
    def raising(error: Exception) -> Any:
        def call() -> dict[str, Any]:
            raise error

        return call

    assert attempted({"setting": "a"}, lambda: {"value": 1}) == {"setting": "a", "value": 1}
    assert attempted({}, raising(InputError("no GPU here."))) == {"skipped": "no GPU here."}
    long = attempted({"setting": "a"}, raising(RuntimeError("no engine\n" * 1000)))
    assert long["failed"].startswith("RuntimeError: no engine no engine") and len(long["failed"]) < 600


@pytest.mark.parametrize(
    ("gpu_name", "file"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3.json"),
        ("NVIDIA GeForce RTX 4090", "nvidia-geforce-rtx-4090.json"),
    ],
)
def test_results_are_named_after_the_gpu(gpu_name: str, file: str) -> None:
    assert gpu_file_name(gpu_name) == file
