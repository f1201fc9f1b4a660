"""The memory that one run needs beyond the loaded network: peak bytes of a fresh process, beside the graph's own count.

    python -m benchmarks.memory             # every setting, ONNX Runtime and PyTorch: about five minutes
    python -m benchmarks.memory --write     # also benchmarks/results/memory.json

Each network runs in a process of its own. When it is loaded and its images are made, the kernel's record of the largest
resident memory is reset (`/proc/self/clear_refs`, Linux); after one run the record, less what was resident before, is
what the run needed: maps, scratch memory, and code that is read from disk the first time. The smallest of several
processes counts. Beside it stands what the graph's order of nodes needs at least (`graph_costs.largest_alive`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
from rich.table import Table

from aps_deploy.console import print_table
from aps_deploy.errors import ApsError
from aps_deploy.export.forms import PolyphaseForm
from benchmarks.calls import Call, as_array, onnx_call, random_images, torch_call
from benchmarks.graph_costs import SizedGraph, largest_alive
from benchmarks.machine import machine
from benchmarks.networks import SETTINGS, Setting, exported
from benchmarks.reporting import RESULTS_FOLDER, add_write_option, keep, run_command

RESULTS = RESULTS_FOLDER / "memory.json"
RUNTIMES = ("onnxruntime", "torch")
NAMES = ("strided", "lpf", "aps", "aps_custom_op", "authors")


def main() -> None:
    options = _options()
    if options.one is not None:
        name, setting, file = options.one
        print(peak_bytes(call_of(name, setting, Path(file) if file else None)))
        return
    measured = [
        measure(setting, runtime, options.processes) for setting in options.settings for runtime in options.runtimes
    ]
    print_table(_table(measured))
    if options.write:
        keep(options.write, {**machine(), "processes": options.processes, "measured": measured})


def measure(setting: str, runtime: str, processes: int) -> dict[str, Any]:
    """Return the peak bytes of each network's run, and what its graph needs."""
    chosen = Setting.parse(setting)
    peaks, needed = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            if runtime != "onnxruntime" and name == "aps_custom_op":
                continue
            form: PolyphaseForm = "custom-op" if name == "aps_custom_op" else "where"
            model = exported(chosen.network("aps" if name == "aps_custom_op" else name), chosen.side, form)
            needed[name] = largest_alive(SizedGraph(model, chosen.batch))
            file = Path(folder) / f"{name}.onnx" if runtime == "onnxruntime" else None
            if file is not None:
                onnx.save(model, file)
            peaks[name] = min(_in_new_process(name, setting, file) for _ in range(processes))
    return {"setting": setting, "runtime": runtime, "peak_bytes": peaks, "largest_alive_bytes": needed}


def call_of(name: str, setting: str, file: Path | None) -> Call:
    """Return a run of one network of a setting: of its file in ONNX Runtime, or in PyTorch where there is none.

    Nothing else is made in this process: memory that was freed again would serve the run unnoticed.
    """
    chosen = Setting.parse(setting)
    images = random_images((chosen.batch, 3, chosen.side, chosen.side))
    if file is not None:
        return onnx_call(file, as_array(images), None)
    return torch_call(chosen.network(name), images)


def peak_bytes(call: Call) -> int:
    """Return by how many bytes the resident memory rose at most during one call.

    Raises:
        ApsError: the kernel keeps no such record, or does not let it be reset.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_bytes("VmRSS")
    except OSError as error:
        raise ApsError(f"the peak of the memory cannot be measured here: {error}.") from error
    call()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ApsError(f"the kernel does not report {field}.")


def _in_new_process(name: str, setting: str, file: Path | None) -> int:
    command = [sys.executable, "-m", "benchmarks.memory", "--one", name, setting, str(file or "")]
    folder = Path(__file__).resolve().parent.parent
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
    return int(result.stdout.split()[-1])


def _table(measured: list[dict[str, Any]]) -> Table:
    table = Table(title="memory of one run: peak beyond the loaded network, and what the order of the nodes needs")
    for column in ("network:side:batch", "runtime", "network", "peak, MB", "over lpf", "graph, MB"):
        table.add_column(column)
    for entry in measured:
        peaks = entry["peak_bytes"]
        for name, peak in peaks.items():
            needed = f"{entry['largest_alive_bytes'][name] / 1e6:.1f}"
            over = f"{peak / max(1, peaks['lpf']):.2f}"
            table.add_row(entry["setting"], entry["runtime"], name, f"{peak / 1e6:.1f}", over, needed)
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Memory of one run beyond the loaded network.")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="NAME:SIDE:BATCH, NAME an APS architecture")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument("--processes", type=int, default=3, help="fresh processes of each, of which the least counts")
    parser.add_argument("--one", nargs=3, metavar=("NETWORK", "SETTING", "FILE"), help=argparse.SUPPRESS)
    add_write_option(parser, RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
