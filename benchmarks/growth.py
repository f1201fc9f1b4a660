"""How the cost of a selecting layer grows with the batch, the resolution, the channels and the stride.

    python -m benchmarks.growth             # about three minutes
    python -m benchmarks.growth --write     # also benchmarks/results/growth.json

Around one setting, one dimension at a time is changed; our layer (in each form of a file), the same blur with plain
striding and the authors' formulation run in turns in ONNX Runtime. The exponent is the slope of the seconds over the
dimension, both in logarithms: 1 means that twice as much costs twice as long. Of the stride none is given: it must
divide the side, and what is kept shrinks with its square.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from aps_deploy.console import print_table
from benchmarks.calls import say_without_kernels
from benchmarks.comparing import Pair, record, table_of
from benchmarks.layer_alone import FORMS, LayerSetting
from benchmarks.machine import machine
from benchmarks.reporting import RESULTS_FOLDER, add_common_options, keep, run_command

RESULTS = RESULTS_FOLDER / "growth.json"
AROUND = LayerSetting(channels=64, side=48, batch=2)
VALUES: dict[str, tuple[int, ...]] = {
    "batch": (1, 2, 4, 8, 16, 32),
    "side": (12, 24, 48, 96, 192),
    "channels": (16, 32, 64, 128, 256, 512),
    "stride": (2, 3, 4),
}
NAMES = (*FORMS, "lpf", "authors")
PAIRS = (*(Pair(form, "lpf") for form in FORMS), Pair("authors", "aps", better="higher"))
LEAST_S = 0.02


def main() -> None:
    options = _options()
    say_without_kernels()
    measured = [entry for dimension in options.dimensions for entry in _grown(dimension, options)]
    exponents = {name: _exponents(name, measured) for name in options.dimensions if name != "stride"}
    print_table(table_of(measured))
    print_table(_exponent_table(exponents))
    document = {"num_threads": options.threads, "rounds": options.rounds, "around": str(AROUND)}
    if options.write:
        keep(options.write, {**machine(), **document, "exponents": exponents, "measured": measured})


def _grown(dimension: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for value in VALUES[dimension]:
        changed: dict[str, Any] = {dimension: value}
        setting = dataclasses.replace(AROUND, **changed)
        calls = setting.calls("onnxruntime", NAMES, options.threads)
        entry = record(str(setting), "onnxruntime", calls, PAIRS, options.rounds, least_s=LEAST_S)
        found.append({"dimension": dimension, "value": value, **entry})
    return found


def _exponents(dimension: str, measured: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return, for each layer, the exponent of its cost in the number of images, pixels or channels."""
    entries = [entry for entry in measured if entry["dimension"] == dimension]
    power = 2 if dimension == "side" else 1
    sizes = [entry["value"] ** power for entry in entries]
    return {name: slope(sizes, [entry["seconds"][name]["median"] for entry in entries]) for name in NAMES}


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the exponent p of the power law, costs proportional to sizes ** p, that fits best in logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    along = sum((one - middle_x) * (other - middle_y) for one, other in zip(x, y, strict=True))
    return along / sum((one - middle_x) ** 2 for one in x)


def _exponent_table(exponents: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title="exponent of the cost in the number of images, pixels, channels")
    for column in ("layer", *exponents):
        table.add_column("pixels" if column == "side" else column)
    for name in NAMES:
        table.add_row(name, *(f"{found[name]:.2f}" for found in exponents.values()))
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How the cost of a selecting layer grows.")
    parser.add_argument("--dimensions", nargs="+", choices=tuple(VALUES), default=tuple(VALUES))
    add_common_options(parser, RESULTS, rounds=15)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
