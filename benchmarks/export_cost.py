"""How long `aps-deploy export` takes, start included, and how large the file is, beside the project's bar.

python -m benchmarks.export_cost             # ResNet-18, 50 and 20 in every form: minutes
python -m benchmarks.export_cost --archs resnet20_aps3 --forms where
python -m benchmarks.export_cost --write     # also benchmarks/results/export_cost.json
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import onnx
from rich.table import Table

from aps_deploy.bench.timing import spread
from aps_deploy.console import print_table
from aps_deploy.export.forms import POLYPHASE_FORMS
from aps_deploy.models import create_model, save_checkpoint
from aps_deploy.preprocessing import CIFAR10, IMAGENET
from benchmarks.machine import machine
from benchmarks.reporting import RESULTS_FOLDER, add_write_option, cells, judged, keep, run_command
from benchmarks.startup import COMMAND, cost

RESULTS = RESULTS_FOLDER / "export_cost.json"
ARCHS = ("resnet20_aps3", "resnet18_aps3", "resnet18_lpf3", "resnet50_aps3")
# Of ResNet-50 with selection, in seconds; smaller networks are held to it as well.
MOST_S = 60.0


def main() -> None:
    options = _options()
    measured = []
    for arch in options.archs:
        forms = options.forms if "_aps" in arch else ["where"]  # the others have no selection to state
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = _checkpoint(arch, Path(folder))
            measured += [measure(arch, checkpoint, form, options.rounds) for form in forms]
    print_table(_table(measured))
    if options.write:
        keep(options.write, {**machine(), "rounds": options.rounds, "measured": measured})


def measure(arch: str, checkpoint: Path, form: str, rounds: int) -> dict[str, Any]:
    """Return the seconds of the command, and the bytes and nodes of what it wrote, beside the checkpoint's bytes."""
    file = checkpoint.with_name("network.onnx")
    command = (*COMMAND, "export", checkpoint, "-o", file, "--polyphase", form)
    taken = [cost(*command, bytecode=checkpoint.with_name("bytecode")).wall_s for _ in range(rounds)]
    model = onnx.load(file)
    return {
        "arch": arch,
        "form": form,
        **judged(spread(taken), at_most=MOST_S),
        "file_bytes": file.stat().st_size,
        "checkpoint_bytes": checkpoint.stat().st_size,
        "nodes": len(model.graph.node),
    }


def _checkpoint(arch: str, folder: Path) -> Path:
    path = folder / "network.safetensors"
    model = create_model(arch).eval()
    preprocessing = CIFAR10 if model.spec.family == "cifar" else IMAGENET
    names = [str(number) for number in range(model.options.num_classes)]
    save_checkpoint(path, model, preprocessing=preprocessing, class_names=names)
    return path


def _table(measured: list[dict[str, Any]]) -> Table:
    table = Table(title="export: seconds, medians (quartiles), and the file")
    for column in ("architecture", "form", "MB", "over checkpoint", "nodes", "s", "quartiles", "bar", ""):
        table.add_column(column)
    for row in measured:
        size = f"{row['file_bytes'] / 1e6:.2f}"
        over = f"{row['file_bytes'] / row['checkpoint_bytes']:.3f}"
        table.add_row(row["arch"], row["form"], size, over, str(row["nodes"]), *cells(row))
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time of an export and size of its file.")
    parser.add_argument("--archs", nargs="+", default=ARCHS, help="architectures")
    parser.add_argument("--forms", nargs="+", choices=POLYPHASE_FORMS, default=POLYPHASE_FORMS)
    parser.add_argument("--rounds", type=int, default=3, help="exports of each")
    add_write_option(parser, RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
