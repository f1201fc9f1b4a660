"""Where the time of a network goes in ONNX Runtime: milliseconds by kind of operator, of APS beside LPF.

    python -m benchmarks.breakdown                                  # resnet18_aps3, 8 images of 224: half a minute
    python -m benchmarks.breakdown --settings resnet20_aps3:32:64
    python -m benchmarks.breakdown --write                          # also benchmarks/results/breakdown.json

ONNX Runtime's own profile of each network, in turns; the median of every operator over the runs, added up by kind.
*Blur* is what the low-pass filter itself takes, its padding included, wherever that is an operator of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import onnx
import torch
from rich.table import Table

from aps_deploy.console import print_table
from aps_deploy.export.forms import PolyphaseForm
from aps_deploy.runtimes.onnxruntime_session import session_options
from benchmarks.calls import as_array, create_session, random_images
from benchmarks.machine import machine
from benchmarks.networks import Setting, exported
from benchmarks.reporting import RESULTS_FOLDER, add_common_options, keep, run_command

RESULTS = RESULTS_FOLDER / "breakdown.json"
SETTINGS = ("resnet18_aps3:224:8",)
FORMS: dict[str, PolyphaseForm] = {"lpf": "where", "aps": "where", "aps_custom_op": "custom-op"}

# The profile ends a kernel's entry so; the first runs allocate memory.
_KERNEL = "_kernel_time"
_WARM_UP = 2


def main() -> None:
    options = _options()
    measured = [measure(Setting.parse(text), options.rounds, options.threads) for text in options.settings]
    for entry in measured:
        print_table(_table(entry))
    if options.write:
        keep(
            options.write, {**machine(), "num_threads": options.threads, "rounds": options.rounds, "measured": measured}
        )


def measure(setting: Setting, rounds: int, num_threads: int | None) -> dict[str, Any]:
    """Return the milliseconds per run of each network of one setting, by kind of operator."""
    images = as_array(random_images((setting.batch, 3, setting.side, setting.side)))
    torch.manual_seed(0)
    networks = setting.networks()
    with tempfile.TemporaryDirectory() as folder:
        sessions, files = {}, {}
        for name, form in FORMS.items():
            files[name] = exported(networks["lpf" if name == "lpf" else "aps"], setting.side, form)
            settings = session_options(num_threads)
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder) / name)
            sessions[name] = create_session(files[name], settings)
        for _ in range(rounds + _WARM_UP):
            for session in sessions.values():
                session.run(None, {"images": images})
        found = {name: by_kind(Path(session.end_profiling()), files[name]) for name, session in sessions.items()}
    return {"setting": str(setting), "milliseconds": found}


def by_kind(profile: Path, model: onnx.ModelProto) -> dict[str, float]:
    """Return the milliseconds of one run by kind of operator, from a profile of several."""
    blurs = _blur_nodes(model)
    durations: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in json.loads(profile.read_text(encoding="utf-8")):
        name = event["name"]
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            durations[event["args"]["op_name"], name.removesuffix(_KERNEL)].append(event["dur"] / 1000)
    kinds: dict[str, float] = defaultdict(float)
    for (kind, node), values in durations.items():
        is_blur = any(part in node for part in blurs)
        kinds["Blur" if is_blur else kind] += statistics.median(values[_WARM_UP:])
    return dict(sorted(kinds.items(), key=lambda entry: -entry[1]))


def _blur_nodes(model: onnx.ModelProto) -> set[str]:
    """Return the names of blurs, their padding and what they make: ONNX Runtime names a moved node by its output."""
    weights = {tensor.name for tensor in model.graph.initializer if ".blur." in tensor.name}
    nodes = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in weights]
    made = {f"{node.output[0]}_nchwc" for node in nodes} | {node.name for node in nodes}
    return made | {node.name for node in model.graph.node if node.op_type == "Pad" and ".blur/" in node.name}


def _table(entry: dict[str, Any]) -> Table:
    table = Table(title=f"{entry['setting']}: milliseconds a run by kind of operator")
    table.add_column("operator")
    for name in FORMS:
        table.add_column(name, justify="right")
    kinds = sorted({kind for found in entry["milliseconds"].values() for kind in found})
    largest = {kind: max(found.get(kind, 0.0) for found in entry["milliseconds"].values()) for kind in kinds}
    for kind in sorted(kinds, key=lambda kind: -largest[kind]):
        if largest[kind] >= 0.05:
            table.add_row(kind, *(f"{entry['milliseconds'][name].get(kind, 0.0):.1f}" for name in FORMS))
    table.add_row("all", *(f"{sum(entry['milliseconds'][name].values()):.1f}" for name in FORMS), end_section=True)
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Where the time of a network goes in ONNX Runtime.")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="NAME:SIDE:BATCH, NAME an APS architecture")
    add_common_options(parser, RESULTS, rounds=10)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
