"""`aps-deploy bench`: tables, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aps_deploy.cli import app
from tests.runtimes import graphs
from tests.serving.support import running

QUICK = ["--warm-up", "0", "--window", "0.05", "--image-size", "8"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    graphs.save(graphs.classifier(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_server(file: Path) -> None:
    with running(file) as server:
        url = f"http://127.0.0.1:{server.where.port}"
        table = CliRunner().invoke(app, ["bench", "--url", url, "--concurrency", "1,3", *QUICK])
        document = CliRunner().invoke(app, ["bench", "--url", url, "--concurrency", "2", "--json", *QUICK])
    assert table.exit_code == document.exit_code == 0, table.output + document.output
    assert "model at http://127.0.0.1" in table.output and "p99 ms" in table.output
    found = json.loads(document.stdout)
    assert found["model"] == "model" and [level["concurrency"] for level in found["levels"]] == [2]
    assert found["levels"][0]["wrong"] == 0 < found["levels"][0]["answered"]


def test_files(file: Path) -> None:
    table = CliRunner().invoke(app, ["bench", str(file), "--rounds", "2", "--image-size", "8"])
    document = CliRunner().invoke(app, ["bench", str(file), "--rounds", "2", "--image-size", "8", "--json"])
    assert table.exit_code == document.exit_code == 0, table.output + document.output
    assert "onnxruntime" in table.output and "ratio" in table.output and "clock" in table.output
    (measured,) = json.loads(document.stdout)["measured"]
    assert measured["ratio"]["median"] == 1.0 and measured["clock"] == measured["ratio_clock"] == "host"
    assert len(measured["window_medians_ms"]) == json.loads(document.stdout)["windows"] >= 3


def test_files_in_every_runtime(file: Path) -> None:
    arguments = [
        "bench",
        str(file),
        "--runtime",
        "all",
        "--rounds",
        "1",
        "--image-size",
        "8",
        "--device",
        "cpu",
        "--json",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert "onnxruntime" in [entry["runtime"] for entry in document["measured"]]
    assert "onnx-reference" not in result.stdout  # written for clarity, not for speed
    reasons = {entry["runtime"]: entry["reason"] for entry in document["skipped"]}
    assert "cannot run on 'cpu'" in reasons["onnxruntime-tensorrt"]
    assert "the CPU kernels were asked for, and" in reasons["onnxruntime-kernels"]


@pytest.mark.parametrize("name", ["net[v2].onnx", "d[/x].onnx"])
def test_names_with_brackets(name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich takes words in brackets for styles."""
    monkeypatch.chdir(file.parent)
    Path(name).parent.mkdir(exist_ok=True)
    file.rename(name)
    result = CliRunner().invoke(app, ["bench", name, "--rounds", "1", "--image-size", "8", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert name in result.output


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        ([], 2, "give either models to run, or --url of a server"),
        (["a.onnx", "--url", "http://here"], 2, "give either models to run, or --url"),
        (["a.onnx"], 2, "a.onnx does not exist"),
        (["a.onnx", "--runtime", "fast"], 2, "unknown runtime 'fast'"),
        (["a.onnx", "--concurrency", "3"], 2, "there is no --url, so --concurrency does not fit it"),
        (["--url", "http://here", "--rounds", "3"], 2, "so --rounds does not fit it"),
        (["--url", "here"], 2, "accepted: http://HOST:PORT"),
        (["--url", "http://here", "--concurrency", "1,x"], 2, "accepted: numbers of clients"),
        (["--url", "http://here", "--window", "0"], 2, "--window is 0"),
        (["--url", "http://127.0.0.1:9"], 1, "nobody answers at http://127.0.0.1:9"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], exit_code: int, sentence: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert sentence in result.stderr and result.stderr.count("\n") == 1
