"""The GPU kernels on the GPU at hand: bandwidth beside a copy, bits under shifts, and a network compiled with them.

    python -m benchmarks.selection_bandwidth                   # about five minutes
    python -m benchmarks.selection_bandwidth --folder FOLDER   # writes FOLDER/<gpu>-selection.json

`python -m benchmarks.gpu`, which scripts/gpu-test runs, has these measurements in its result, too.
Without a CUDA device that runs the kernels it says so and ends with exit code 2.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from aps_deploy.console import print_table
from aps_deploy.plugins.triton.usage import kernels_on, why_unavailable
from benchmarks.gpu import bandwidth, identity, networks
from benchmarks.machine import machine
from benchmarks.reporting import RESULTS_FOLDER, cells, gpu_file_name, keep

ROUNDS, IMAGES, SHIFTS = 20, 4, 8


def main() -> int:
    options = _options()
    reason = why_not_here()
    if reason is not None:
        print(f"selection_bandwidth: nothing is measured, because {reason}.", file=sys.stderr)
        return 2
    gpu = torch.cuda.get_device_name()
    document = {**machine(), "gpu": gpu, **measure(options.rounds, options.images, options.shifts)}
    keep(options.folder / gpu_file_name(gpu, "-selection"), document)
    return 0


def measure(rounds: int = ROUNDS, images: int = IMAGES, shifts: int = SHIFTS) -> dict[str, Any]:
    """Measure everything on the current CUDA device, print it as tables, and return it.

    Args:
        rounds: runs of each.
        images: images of the logits under shifts.
        shifts: shifts of each image.
    """
    measured = {
        "rounds": rounds,
        "bandwidth": [bandwidth.measure(setting, rounds) for setting in bandwidth.settings()],
        "bits_under_shifts": identity.sweep(images, shifts),
        "compiled": [networks.measure(dtype, rounds) for dtype in networks.DTYPES],
    }
    for table in tables_of(measured):
        print_table(table)
    return measured


def why_not_here() -> str | None:
    """Return why the kernels cannot be measured on this machine, in words; None where they can."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device here"
    if kernels_on(torch.device("cuda", torch.cuda.current_device())) is None:
        return f"the GPU kernels are not used ({why_unavailable() or 'see the warning above'})"
    return None


def tables_of(document: dict[str, Any]) -> list[Table]:
    """Return the tables that are printed: bandwidth, bits under shifts, compiled networks."""
    moved = _table(
        "selection beside a copy", "map", "copy, GB/s", "selection, GB/s", "of a copy", "quartiles", "bar", ""
    )
    for row in document["bandwidth"]:
        speeds = (f"{row['copy_gb_per_s']:.0f}", f"{row['select_gb_per_s']:.0f}")
        moved.add_row(row["setting"], *speeds, *cells(row["of_copy"]))
    bits = _table(
        f"{identity.ARCHITECTURE}: logits under shifts", "type", "settings", "identical", "largest difference"
    )
    for row in document["bits_under_shifts"]:
        switched_on = [name.replace("_", " ") for name, value in row.items() if value is True]
        bits.add_row(
            row["dtype"],
            ", ".join(switched_on),
            f"{row['identical']} of {row['of']}",
            f"{row['largest_difference']:.2g}",
        )
    compiled = _table("compiled networks", "setting", "type", "ms, lpf", "aps/lpf", "quartiles", "bar", "")
    for row in document["compiled"]:
        milliseconds = f"{1e3 * row['seconds']['lpf']['median']:.2f}"
        compiled.add_row(row["setting"], row["dtype"], milliseconds, *cells(row["aps/lpf"]))
    return [moved, bits, compiled]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column)
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The GPU kernels on the GPU at hand.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="runs of each")
    parser.add_argument("--images", type=int, default=IMAGES, help="images of the logits under shifts")
    parser.add_argument("--shifts", type=int, default=SHIFTS, help="shifts of each")
    parser.add_argument(
        "--folder", type=Path, default=RESULTS_FOLDER, help="where the result goes [default: %(default)s]"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
