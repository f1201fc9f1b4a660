"""A small table is run, stopped, continued and written, by the command itself."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner, Result

from aps_deploy.cli import app
from aps_deploy.training import step
from aps_deploy.training.evaluate import EvaluateSettings, evaluate
from aps_deploy.training.metrics import read_metrics
from aps_deploy.training.reproduction.page import spread

DECLARED = """
title = "Squares"
[train]
recipe = "fast"
epochs = 2
batch_size = 16
precision = "float32"
[evaluate]
protocols = ["cifar", "cifar-erase"]
shifts = 3
shift_images = 4
[[grid]]
arch = ["resnet20"]
sampler = ["strided", "aps"]
filter = [3]
seed = [0, 1]
[[reported]]
row = "another network"
accuracy_percent = 94.2
source = "somebody"
"""
ROWS = ("resnet20-seed0", "resnet20-seed1", "resnet20_aps3-seed0", "resnet20_aps3-seed1")

Reproduce = Callable[..., Result]


@pytest.fixture
def reproduce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reproduce:
    (tmp_path / "squares.toml").write_text(DECLARED)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, ["reproduce", "squares.toml", "--page", "docs/results.md", *words])

    return run


def page(folder: Path) -> str:
    return (folder / "docs" / "results.md").read_text()


def test_a_table_is_run_stopped_and_continued(
    reproduce: Reproduce, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    result = reproduce()
    assert result.exit_code == 0, result.output
    assert "0 of 4 rows of squares are measured" in result.output
    assert "None of the 4 rows was run." in page(tmp_path) and page(tmp_path).count("(not run)") == 4
    words = ("--data", str(data_folder), "--device", "cpu", "--no-progress")
    steps: list[int] = []
    original = step.Trainer.step

    def counting(self: step.Trainer, *arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 8:  # in the second epoch of the second row: 3 steps each
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    monkeypatch.setattr(step.Trainer, "step", counting)
    result = reproduce(*words)
    assert result.exit_code == 0, result.output
    assert "stopped by SIGTERM, everything is saved; continue with: aps-deploy reproduce" in result.output
    assert "1 of 4 rows" in page(tmp_path) and page(tmp_path).count("(not run)") == 3
    result = reproduce(*words)
    assert result.exit_code == 0, result.output
    assert len(steps) == 4 * 2 * 3, "no step was taken twice"
    assert "4 of 4 rows of squares are measured" in result.output
    assert "not run" not in page(tmp_path) and reproduce(*words).exit_code == 0 and len(steps) == 24
    check_page(tmp_path, data_folder)
    check_what_is_kept(reproduce, tmp_path)


def check_page(folder: Path, data_folder: Path) -> None:
    """Every number is that of an evaluation made here, and every command can be given again."""
    text = page(folder)
    for network in ("resnet20", "resnet20_aps3"):
        accuracies, consistencies = [], []
        for seed in (0, 1):
            found = evaluate(
                EvaluateSettings(
                    model=folder / f"runs/squares/{network}-seed{seed}/best.safetensors",
                    data=data_folder,
                    device="cpu",
                    shifts="none",
                    protocol="cifar",
                    progress=False,
                )
            )
            assert found.accuracy_percent is not None
            accuracies.append(found.accuracy_percent)
            consistencies.append(found.authors.consistency_percent)
        measured = (accuracies, consistencies)
        expected = [f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} %" for values in measured]
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{network}` ") and "2 of 2" in line]
        assert [cell.strip() for cell in line.split("|")][5:7] == expected
    assert "94.2 %" in text and "Reported by others, not measured here" in text
    assert text.count("| 1 process, cpu, float32 |") == 2, "two seeds of two networks"
    commands = [line.strip() for line in text.splitlines() if line.startswith("      aps-deploy")]
    assert all("--device cpu" in command for command in commands)
    assert len(commands) == 4 * 3 and str(folder) not in text and str(data_folder) not in text
    for command in commands:
        _, verb, *rest = shlex.split(command)
        typer.main.get_command(app).commands[verb].make_context(verb, rest)  # type: ignore[attr-defined]
    assert (folder / "docs/results/squares/curves.png").stat().st_size > 5000
    assert "![curves](results/squares/curves.png)" in text


def check_what_is_kept(reproduce: Reproduce, folder: Path) -> None:
    """Numbers come from kept files only: without the runs the page is the same; a changed file is refused."""
    before = page(folder)
    kept = folder / "docs/results/squares"
    assert {path.name for path in kept.iterdir()} == {*ROWS, "table.toml", "curves.png"}
    for row in ROWS:
        assert read_metrics(kept / row / "metrics.jsonl") == read_metrics(
            folder / "runs/squares" / row / "metrics.jsonl"
        )
        assert str(folder) not in (kept / row / "row.json").read_text()
    shutil.rmtree(folder / "runs")
    assert reproduce().exit_code == 0 and page(folder) == before
    metrics = kept / ROWS[0] / "metrics.jsonl"
    content = metrics.read_text()
    metrics.write_text(content.replace('"epoch": 2', '"epoch": 3'))
    result = reproduce()
    assert result.exit_code == 2 and "is not the metrics file that the numbers" in result.output
    metrics.write_text(content)
    document = json.loads((kept / ROWS[0] / "row.json").read_text())
    document["settings"]["epochs"] = 3
    (kept / ROWS[0] / "row.json").write_text(json.dumps(document))
    result = reproduce()
    assert result.exit_code == 2 and "was run with other settings" in result.output


def test_refusals(reproduce: Reproduce, data_folder: Path) -> None:
    for words, message in (
        (("--data", str(data_folder), "--only", "resnet5*"), "no row of squares is named resnet5*"),
        (("--page", "results"), "--page is results; give the name of a Markdown file"),
    ):
        result = reproduce(*words)
        assert result.exit_code == 2 and message in result.output


def test_the_images_of_the_evaluation_are_looked_for_first(
    reproduce: Reproduce, data_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(data_folder / "train", tmp_path / "data" / "train")
    shutil.copytree(data_folder / "test", tmp_path / "data" / "val")
    result = reproduce("--data", "data", "--device", "cpu", "--no-progress")
    assert result.exit_code == 2 and "--split is test, but data holds val, train" in result.output
    assert not (tmp_path / "runs").exists(), "nothing was trained"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "filter = [3]",
            'filter = [3]\ncriterion = ["l2", "l9"]',
            "row resnet20_aps3-l9-seed0: unknown selection crit",
        ),
        ('["resnet20"]', '["resnet20", "resnet21"]', "row resnet21-seed0: unknown architecture"),
        ("batch_size = 16", "image_size = 30", "row resnet20_aps3-seed0: resnet20_aps3 does not take 30x30 images"),
        ("batch_size = 16", 'milestones = "1"\nwarmup_share = 0.5', "row resnet20-seed0: --warmup-share belongs to"),
    ],
)
def test_no_row_is_run_of_a_table_with_a_wrong_one(
    reproduce: Reproduce, data_folder: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in DECLARED
    (tmp_path / "squares.toml").write_text(DECLARED.replace(old, new))
    result = reproduce("--data", str(data_folder), "--device", "cpu", "--no-progress")
    assert result.exit_code == 2 and f"squares.toml: {message}" in result.stderr.replace("\n", " "), result.output
    assert not (tmp_path / "runs").exists(), "nothing was trained"


def test_spread() -> None:
    assert spread([]) == "not run" and spread([50.0]) == "50.00 %"
    assert spread([1.0, 2.0, 3.0], unit="", digits=1) == "2.0 ± 1.0"
