"""The GPU kernels on the GPU at hand: bandwidth beside a copy, bits under shifts, and a network compiled with them.

    python -m benchmarks.selection_bandwidth                   # about five minutes
    python -m benchmarks.selection_bandwidth --folder FOLDER   # writes FOLDER/<gpu>-selection.json

`python -m benchmarks.gpu`, which scripts/gpu-test runs, has these measurements in its result, too.
The file is written after every row; what fails is a row that says why, and the exit code is 1 then.
Without a CUDA device that runs the kernels it says so and ends with exit code 2.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from aps_deploy.console import print_table
from aps_deploy.plugins.triton.usage import kernels_on, why_unavailable
from benchmarks.gpu import bandwidth, identity, networks
from benchmarks.gpu.result import Entry, Result
from benchmarks.machine import machine
from benchmarks.reporting import RESULTS_FOLDER, cells, gpu_file_name, run_command

PARTS = ("bandwidth", "bits", "compiled")
ROUNDS, IMAGES, SHIFTS = 20, 4, 8


def main() -> int:
    options = _options()
    reason = why_not_here()
    if reason is not None:
        print(f"selection_bandwidth: nothing is measured, because {reason}.", file=sys.stderr)
        return 2
    gpu = torch.cuda.get_device_name()
    result = Result(options.folder / gpu_file_name(gpu, "-selection"), {**machine(), "gpu": gpu})
    for part in PARTS:
        fill(result, part, options.rounds, options.images, options.shifts)
    print(result.path)
    return int(any(result.failures(part) for part in PARTS))


def fill(result: Result, part: str, rounds: int = ROUNDS, images: int = IMAGES, shifts: int = SHIFTS) -> None:
    """Measure one of `PARTS` on the current CUDA device into a result, and print its table.

    Args:
        result: takes each row as it is measured.
        part: what is measured.
        rounds: runs of each.
        images: images of the logits under shifts.
        shifts: shifts of each image.
    """
    settings = {"images": images, "shifts": shifts} if part == "bits" else {"rounds": rounds}
    result.fill(part, entries(part, rounds, images, shifts), **settings)
    print_table(table_of(part, result.document["parts"][part]["rows"]))


def entries(part: str, rounds: int, images: int, shifts: int) -> Iterator[Entry]:
    """Yield the rows of one of `PARTS`, each with the call that measures it."""
    if part == "bandwidth":
        for setting in bandwidth.settings():
            yield {"setting": str(setting)}, functools.partial(bandwidth.measure, setting, rounds)
    elif part == "bits":
        for dtype in identity.DTYPES:
            for settings in identity.SETTINGS:
                measure = functools.partial(identity.measure, dtype, settings, images, shifts)
                yield identity.named(dtype, settings), measure
    else:
        for dtype in networks.DTYPES:
            key = {"setting": networks.SETTING, "dtype": str(dtype).removeprefix("torch.")}
            yield key, functools.partial(networks.measure, dtype, rounds)


def why_not_here() -> str | None:
    """Return why the kernels cannot be measured on this machine, in words; None where they can."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device here"
    if kernels_on(torch.device("cuda", torch.cuda.current_device())) is None:
        return f"the GPU kernels are not used ({why_unavailable() or 'see the warning above'})"
    return None


def table_of(part: str, rows: list[dict[str, Any]]) -> Table:
    """Return the table of one of `PARTS`; a row that failed says why."""
    titles = {
        "bandwidth": "selection beside a copy",
        "bits": f"{identity.ARCHITECTURE}: logits under shifts",
        "compiled": "compiled networks",
    }
    table = Table(*_COLUMNS[part], title=titles[part])
    for row in rows:
        why = row.get("failed", row.get("skipped"))
        table.add_row(_name(row), *(_figures(part, row) if why is None else [str(why)]))
    return table


_COLUMNS = {
    "bandwidth": ("map", "copy, GB/s", "selection, GB/s", "of a copy", "quartiles", "bar", ""),
    "bits": ("type and settings", "identical", "largest difference"),
    "compiled": ("setting and type", "ms, lpf", "aps/lpf", "quartiles", "bar", ""),
}


def _name(row: dict[str, Any]) -> str:
    named = [row[key] for key in ("setting", "dtype") if key in row]
    return ", ".join(named + [key.replace("_", " ") for key, value in row.items() if value is True])


def _figures(part: str, row: dict[str, Any]) -> list[str]:
    if part == "bandwidth":
        return [f"{row['copy_gb_per_s']:.0f}", f"{row['select_gb_per_s']:.0f}", *cells(row["of_copy"])]
    if part == "bits":
        return [f"{row['identical']} of {row['of']}", f"{row['largest_difference']:.2g}"]
    return [f"{1e3 * row['seconds']['lpf']['median']:.2f}", *cells(row["aps/lpf"])]


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
    run_command(main)
