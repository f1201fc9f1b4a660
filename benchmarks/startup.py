"""What a person waits for at the command line, beside the project's bars.

    python -m benchmarks.startup             # help and predict on one image: about half a minute
    python -m benchmarks.startup --write     # also benchmarks/results/startup.json

- *help*: processor time of `aps-deploy --help`.
- *predict*: `aps-deploy predict FILE IMAGE` with a packaged network, against a Python that only imports NumPy and
  ONNX Runtime, opens the same file and runs it once; both are new processes, one of each per round.

Commands are started as the installed script starts them, and all of them find their bytecode compiled, as after an
installation by pip: one process of each kind runs beforehand and is not counted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from aps_deploy.bench.timing import ratios, spread
from aps_deploy.console import print_table
from aps_deploy.export import export_checkpoint
from aps_deploy.images import find_images_anywhere
from aps_deploy.packaged import packaged_images
from benchmarks.machine import machine
from benchmarks.reporting import RESULTS_FOLDER, add_write_option, cells, judged, keep, run_command

RESULTS = RESULTS_FOLDER / "startup.json"
PACKAGED = "resnet20_aps3.cifar10"

# What the installed script does.
COMMAND = (sys.executable, "-c", "from aps_deploy.__main__ import main; main()")
_BARE = """
import sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {"images": np.zeros((1, 3, 32, 32), np.float32)})
"""


@dataclass(frozen=True)
class Cost:
    """What one process took.

    Attributes:
        wall_s: seconds that passed.
        processor_s: seconds of processor time, its own and the system's for it.
    """

    wall_s: float
    processor_s: float


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        found = [*_help(options.rounds, Path(folder)), *_predict(options.rounds, Path(folder))]
    print_table(_table(found))
    if options.write:
        keep(options.write, {**machine(), "rounds": options.rounds, "measured": found})


def cost(*command: str | os.PathLike[str], bytecode: Path) -> Cost:
    """Run a command to its end and return what it took.

    Args:
        command: the program and its arguments.
        bytecode: folder where Python keeps compiled modules, and finds them the next time.

    Raises:
        CalledProcessError: it failed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
    before = os.times()
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    wall_s = time.perf_counter() - start
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(wall_s, spent)


def _help(rounds: int, folder: Path) -> list[dict[str, Any]]:
    costs = _rounds({"help": (*COMMAND, "--help")}, rounds, folder)["help"]
    return [_row("aps-deploy --help, processor seconds", "s", [each.processor_s for each in costs], at_most=0.3)]


def _predict(rounds: int, folder: Path) -> list[dict[str, Any]]:
    file = folder / "model.onnx"
    export_checkpoint(PACKAGED, file)
    image = find_images_anywhere(packaged_images()["cifar10"])[0]
    commands = {"predict": (*COMMAND, "predict", file, image), "bare": (sys.executable, "-c", _BARE, file)}
    costs = _rounds(commands, rounds, folder)
    wall = {name: [each.wall_s for each in values] for name, values in costs.items()}
    spent = {name: [each.processor_s for each in values] for name, values in costs.items()}
    return [
        _row("predict / import and run once, seconds", "ratio", ratios(wall["predict"], wall["bare"]), at_most=1.5),
        _row(
            "predict / import and run once, processor seconds",
            "ratio",
            ratios(spent["predict"], spent["bare"]),
            at_most=1.5,
        ),
        _row("predict, seconds", "s", wall["predict"]),
    ]


def _rounds(
    commands: Mapping[str, tuple[str | os.PathLike[str], ...]], rounds: int, folder: Path
) -> dict[str, list[Cost]]:
    """Return what the commands took in every round; the order turns, and a first run of each is not counted."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for number in range(-1, rounds):
        for name in list(commands) if number % 2 == 0 else reversed(list(commands)):
            taken = cost(*commands[name], bytecode=folder / "bytecode")
            if number >= 0:
                costs[name].append(taken)
    return costs


def _row(what: str, unit: str, values: list[float], at_most: float | None = None) -> dict[str, Any]:
    return {"what": what, "unit": unit, **judged(spread(values), at_most=at_most)}


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="start-up: medians (quartiles)")
    for column in ("what", "median", "quartiles", "bar", ""):
        table.add_column(column)
    for row in rows:
        table.add_row(row["what"], *cells(row))
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a person waits for at the command line.")
    parser.add_argument("--rounds", type=int, default=10, help="processes of each kind")
    add_write_option(parser, RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
