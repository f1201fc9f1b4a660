"""The commands of a row are those it was run with, also where the file that was kept is an older one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aps_deploy.training.reproduction.page import write_page
from aps_deploy.training.reproduction.records import TABLE_FILE, keep_row, read_record, train_command
from aps_deploy.training.reproduction.table import Table, read_table

DECLARED = """
title = "One row"
[train]
recipe = "fast"
[[grid]]
arch = ["resnet20"]
sampler = ["strided"]
"""
EVALUATION = {
    "accuracy_percent": 50.0,
    "authors": {"consistency_percent": 60.0},
    "consistency": {"top1_percent": 70.0, "identical_pairs_percent": 80.0},
}


def kept(folder: Path, **run: Any) -> Table:
    """Keep the row of a small table as if it had been run so."""
    (folder / "small").mkdir(parents=True)
    (folder / "small" / TABLE_FILE).write_text(DECLARED)
    table = read_table(folder / "small" / TABLE_FILE)
    metrics = folder / "metrics.jsonl"
    metrics.write_text(json.dumps({"epoch": 1, "train_accuracy": 0.5}) + "\n")
    document = {
        "train_commands": ["aps-deploy train --old"],
        "evaluate_commands": ["aps-deploy evaluate --old"],
        "epochs": 1,
        "train_seconds": 90.0,
        "machine": {"cores": 2, "processor": "a processor"},
        "evaluations": {"cifar": EVALUATION},
        **run,
    }
    keep_row(folder / "small" / table.rows[0].name, table.rows[0], metrics, document)
    return table


@pytest.mark.parametrize(
    ("run", "options", "shown"),
    [
        (
            {"num_processes": 4, "device": "cuda", "precision": "bf16"},
            "--device cuda --precision bf16 --nproc-per-node 4",
            "4 processes, cuda, bf16",
        ),
        ({"num_processes": 1, "device": "cpu"}, "--device cpu", "1 process, cpu, number format not kept"),
    ],
    ids=["whole", "older"],
)
def test_the_page_says_how_a_row_was_run(run: dict[str, Any], options: str, shown: str, tmp_path: Path) -> None:
    table = kept(tmp_path / "results", **run)
    write_page(tmp_path / "results.md", tmp_path / "results")
    text = (tmp_path / "results.md").read_text()
    declared = train_command(table.rows[0], table)
    assert f"      {declared} {options}\n" in text and "--old" not in text
    (evaluated,) = [line for line in text.splitlines() if line.startswith("      aps-deploy evaluate")]
    assert f"--device {run['device']}" in evaluated
    assert f"| 1.5 | {shown} |" in text


def test_a_declared_precision_is_known_and_said_once(tmp_path: Path) -> None:
    table = kept(tmp_path / "results", num_processes=1, device="cuda", precision="bf16")
    row = table.rows[0]
    record = read_record(tmp_path / "results", table, row)
    assert record is not None
    auto = type(row)(row.network, row.augmentation, row.criterion, row.seed, {**row.settings, "precision": "auto"})
    command = train_command(auto, table, record.document)
    assert command.count("--precision") == 1 and "--precision bf16" in command
    older = {key: value for key, value in record.document.items() if key != "precision"}
    declared = type(row)(row.network, row.augmentation, row.criterion, row.seed, {**row.settings, "precision": "fp16"})
    assert type(record)(declared, record.metrics, older).describe_run() == "1 process, cuda, fp16"
    assert type(record)(auto, record.metrics, older).describe_run().endswith("number format not kept")
