"""A plain `predict` is read, run and failed without Typer exactly as Typer reads, runs and fails it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import aps_deploy.__main__ as entry
import aps_deploy.predict
from aps_deploy.cli import app
from aps_deploy.packaged import packaged_images, packaged_models
from aps_deploy.plain_predict import parse_plainly
from aps_deploy.predict import PredictionReport

ROOT = Path(__file__).resolve().parent.parent
IMAGE = next(iter(sorted(packaged_images()["cifar10"].rglob("*.jpg"))))
PACKAGED = next(iter(packaged_models()))

WORDS = st.sampled_from(
    (
        *("m.onnx", "./a.png", "b/../c.png", "--json", "-k", "--top-k", "-b", "--batch-size", "--batch_size"),
        *("1", "07", "0", "-1", "1_0", "+2", " 3", "3.0", "12345678901", "٣", "x", "", "-", "--", "--help", "-v"),
        *("--runtime", "--device", "--preprocessing", "--runtime=torch", "onnxruntime", "cpu", "-kb", "-k3"),
    )
)
DEFAULTS = {"top_k": 5, "runtime": None, "device": None, "preprocessing": None, "batch_size": 32}
EMPTY = PredictionReport("m", None, "onnxruntime", "cpu", (), ())


def _typers_reading(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any] | None:
    """What Typer hands to `predict`, with the form of the output; None where it refuses the line."""
    seen: dict[str, Any] = {}

    def capture(model: str, images: list[Path], **values: Any) -> PredictionReport:
        seen.update(values, model=model, images=images)
        return EMPTY

    def shown(self: PredictionReport, *, as_json: bool) -> str:
        seen["as_json"] = as_json
        return ""

    with monkeypatch.context() as patch:
        patch.setattr(aps_deploy.predict, "predict", capture)
        patch.setattr(PredictionReport, "to_text", shown)
        result = CliRunner().invoke(app, arguments)
    return seen if result.exit_code == 0 and seen else None


@settings(max_examples=150, deadline=None)
@example(words=["m.onnx", "./a.png", "-k", "1", "--json", "b/../c.png", "--runtime", "cpu", "-k", "12"])
@given(words=st.lists(WORDS, max_size=9))
def test_what_is_read_plainly_is_what_typer_reads(words: list[str]) -> None:
    plain = parse_plainly(["predict", *words])
    with pytest.MonkeyPatch.context() as monkeypatch:
        by_typer = _typers_reading(["predict", *words], monkeypatch)
    if plain is not None:
        assert {**DEFAULTS, **plain} == by_typer


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--json",),
        ("-k", "3", "-b", "8"),
        ("--top-k", "1", "--runtime", "onnxruntime", "--device", "cpu", "--preprocessing", "cifar10"),
    ],
)
def test_ordinary_lines_are_plain(options: tuple[str, ...]) -> None:
    assert parse_plainly(["predict", "m.onnx", *options, "a.png", "b.png"]) is not None


@pytest.mark.parametrize(
    "arguments", [[], ["predict"], ["predict", "m.onnx"], ["-v", "predict", "m", "i"], ["verify", "m.onnx", "i"]]
)
def test_everything_else_is_left_to_typer(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert entry.predict_plainly(arguments) is None
    assert capfd.readouterr() == ("", "")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    from aps_deploy.export import export_checkpoint

    path = tmp_path_factory.mktemp("plain") / "model.onnx"
    export_checkpoint(PACKAGED, path)
    return os.fspath(path)


@pytest.mark.parametrize("options", [(), ("--json",), ("-k", "2")])
def test_both_ways_print_the_same(onnx_file: str, options: tuple[str, ...]) -> None:
    line = ("predict", onnx_file, str(IMAGE), str(IMAGE), *options)
    plain, by_typer = _run("aps_deploy", *line), _run("aps_deploy.cli", *line)
    assert plain.stdout == by_typer.stdout and str(IMAGE) in plain.stdout
    assert (plain.returncode, plain.stderr) == (by_typer.returncode, by_typer.stderr) == (0, "")


def test_both_ways_fail_the_same(onnx_file: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(IMAGE.read_bytes()[:100])
    lines = [
        ["predict", "no.onnx", str(IMAGE)],
        ["predict", onnx_file, "no.png"],
        ["predict", onnx_file, str(damaged)],
        ["predict", onnx_file, str(IMAGE), "--runtime", "abacus"],
        ["predict", onnx_file, str(IMAGE), "--device", "moon"],
    ]
    for line in lines:
        code = entry.predict_plainly(line)
        plain = capfd.readouterr()
        by_typer = CliRunner().invoke(app, line)
        assert code == by_typer.exit_code == 2, line
        assert (plain.out, plain.err) == (by_typer.stdout, by_typer.stderr), line
        assert plain.err.startswith("Error: ")


def test_a_reader_that_goes_away_is_no_traceback(onnx_file: str) -> None:
    command = [sys.executable, "-m", "aps_deploy", "predict", onnx_file, *[str(IMAGE)] * 2000]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=ROOT)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


def test_a_bug_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> PredictionReport:
        raise RuntimeError("a bug")

    monkeypatch.setattr(aps_deploy.predict, "predict", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        entry.predict_plainly(["predict", "m.onnx", "a.png"])


def test_an_interruption_ends_with_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> PredictionReport:
        raise KeyboardInterrupt

    monkeypatch.setattr(aps_deploy.predict, "predict", interrupted)
    assert entry.predict_plainly(["predict", "m.onnx", "a.png"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"
