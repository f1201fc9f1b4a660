"""What `scripts/gpu-test` leaves, as far as a machine without a GPU can write it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import report
from benchmarks.reporting import gpu_file_name

JUNIT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="tests.a" name="test_runs[1]" time="1"/>
<testcase classname="tests.a" name="test_breaks" time="1"><failure message="no">page</failure></testcase>
<testcase classname="tests.b" name="test_no_setup" time="1"><error message="no">page</error></testcase>
<testcase classname="tests.b" name="test_not_here" time="0"><skipped message="TensorRT is not installed"/></testcase>
</testsuite></testsuites>"""


def test_a_short_run_leaves_a_whole_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tests.xml").write_text(JUNIT)
    monkeypatch.setattr(report, "first_gpu", lambda: None)
    options = [
        *("--pairs", "resnet20_aps2:resnet20", "--runtimes", "torch", "onnxruntime-tensorrt", "--device", "cpu"),
        *("--batch-size", "2", "--rounds", "1", "--tests", str(tmp_path / "tests.xml"), "--output", str(tmp_path)),
    ]
    monkeypatch.setattr(sys, "argv", ["gpu", *options])
    report.main()
    document = json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"))
    assert document["tests"] == {
        "passed": 1,
        "failed": ["tests.a::test_breaks", "tests.b::test_no_setup"],
        "skipped": {"tests.b::test_not_here": "TensorRT is not installed"},
    }
    assert "torch finds no CUDA device" in document["kernels"]["skipped"] or torch.cuda.is_available()
    assert document["environment"]["device"] == "cpu" and document["environment"]["versions"]["torch"]
    measured, left_out = document["measured"]
    assert (measured["arch"], measured["against"], measured["clock"]) == ("resnet20_aps2", "resnet20", "host")
    assert measured["image_size"] == 32 and measured["p50_ms"] > 0 and measured["median"] > 0
    assert "at_most" not in measured  # the bar is for a GPU
    assert "cannot run on 'cpu'" in left_out["skipped"] and left_out["runtime"] == "onnxruntime-tensorrt"
    assert str(tmp_path / "cpu.json") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("gpu_name", "file"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3.json"),
        ("NVIDIA GeForce RTX 4090", "nvidia-geforce-rtx-4090.json"),
    ],
)
def test_results_are_named_after_the_gpu(gpu_name: str, file: str) -> None:
    assert gpu_file_name(gpu_name) == file
