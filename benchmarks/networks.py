"""What adaptive sampling costs a whole network on the CPU: ratios of interleaved runs, beside the project's bars.

    python -m benchmarks.networks                     # every setting, ONNX Runtime and PyTorch, about five minutes
    python -m benchmarks.networks --rounds 5 --settings resnet20_aps3:32:64
    python -m benchmarks.networks --write             # also benchmarks/results/networks.json

Four networks with the same convolutions and random weights: `aps` (exact selection, as exported by default), `lpf` (the
same blur and plain striding), `strided` (neither), `authors` (APS in the formulation of its authors, see
`authors_form`). All of them run the same images once in every round.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from rich.table import Table

from aps_deploy.bench.timing import interleaved, ratios, spread
from aps_deploy.console import print_table
from aps_deploy.export.onnx_export import finish_onnx, trace_onnx
from aps_deploy.models import SelectingNetwork, create_model
from aps_deploy.runtimes.onnxruntime_session import session_options, start_session
from benchmarks.authors_form import in_authors_form
from benchmarks.machine import machine
from benchmarks.reporting import add_write_option, cells, judged, keep

RESULTS = Path(__file__).with_name("results") / "networks.json"
SETTINGS = ("resnet18_aps3:224:1", "resnet18_aps3:224:8", "resnet20_aps3:32:64")
RUNTIMES = ("onnxruntime", "torch")

# What the project wants of `aps` over `lpf`, by runtime and setting; and of `authors` over `aps`, in every setting.
MOST_OVER_LPF = {
    ("onnxruntime", "resnet18_aps3:224:1"): 1.15,
    ("onnxruntime", "resnet18_aps3:224:8"): 1.08,
    ("onnxruntime", "resnet20_aps3:32:64"): 1.05,
    **{("torch", setting): 1.10 for setting in SETTINGS},
}
LEAST_UNDER_AUTHORS = 1.3


@dataclass(frozen=True)
class Setting:
    """An APS network, the side of its images and how many run at once; written ``NAME:SIDE:BATCH``."""

    name: str
    side: int
    batch: int

    @staticmethod
    def parse(text: str) -> Setting:
        """Return the setting that ``text`` names."""
        name, side, batch = text.split(":")
        return Setting(name, int(side), int(batch))

    def __str__(self) -> str:
        return f"{self.name}:{self.side}:{self.batch}"

    def networks(self) -> dict[str, SelectingNetwork]:
        """Return the four networks, in evaluation mode, with the same weights."""
        plain = self.name.partition("_aps")[0]
        found = {
            "aps": create_model(self.name),
            "lpf": create_model(self.name.replace("_aps", "_lpf")),
            "strided": create_model(plain),
            "authors": in_authors_form(create_model(self.name)),
        }
        for model in found.values():
            model.load_state_dict(found["aps"].state_dict())
            model.eval()
        return found


def main() -> None:
    options = _options()
    measured = []
    for setting in (Setting.parse(text) for text in options.settings):
        for runtime in options.runtimes:
            measured.append(measure(setting, runtime, options.rounds, options.threads))
    document = {**machine(), "num_threads": options.threads, "rounds": options.rounds, "measured": measured}
    print_table(_table(measured))
    if options.write:
        keep(RESULTS, document)


def measure(setting: Setting, runtime: str, rounds: int, num_threads: int | None) -> dict[str, Any]:
    """Return the seconds of the four networks and the ratios that matter, with the bar of each."""
    torch.manual_seed(0)
    images = torch.randn(setting.batch, 3, setting.side, setting.side)
    networks = setting.networks()
    if runtime == "torch":
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        calls = {name: _torch_call(model, images) for name, model in networks.items()}
    else:
        calls = {name: _onnx_call(model, images.numpy(), num_threads) for name, model in networks.items()}
    seconds = interleaved(calls, rounds)
    compared = [
        _compared(seconds, "aps", "lpf", most=MOST_OVER_LPF.get((runtime, str(setting)))),
        _compared(seconds, "aps", "strided"),
        _compared(seconds, "authors", "aps", least=LEAST_UNDER_AUTHORS),
    ]
    return {
        "setting": str(setting),
        "runtime": runtime,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratios": compared,
    }


def _compared(
    seconds: dict[str, list[float]], one: str, other: str, *, most: float | None = None, least: float | None = None
) -> dict[str, Any]:
    found = judged(spread(ratios(seconds[one], seconds[other])), at_most=most, at_least=least)
    return {"ratio": f"{one}/{other}", **found}


def _torch_call(model: SelectingNetwork, images: torch.Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return model(images)

    return call


def _onnx_call(model: SelectingNetwork, images: np.ndarray[Any, Any], num_threads: int | None) -> Callable[[], object]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        onnx.save(exported(model, images.shape[2]), file)
        session = start_session(str(file), "cpu", session_options(num_threads), "the benchmark's file")
    return lambda: session.run(None, {"images": images})


def exported(model: SelectingNetwork, side: int) -> onnx.ModelProto:
    """Return the file of ``model`` for square images of ``side`` pixels, in the default form."""
    return finish_onnx(trace_onnx(model, height=side, width=side, opset=20), "where")


def _table(measured: list[dict[str, Any]]) -> Table:
    table = Table(title="ratios of interleaved runs: median (quartiles)")
    for column in ("network:side:batch", "runtime", "ms per image, lpf", "ratio", "median", "quartiles", "bar", ""):
        table.add_column(column)
    for entry in measured:
        batch = Setting.parse(entry["setting"]).batch
        for found in entry["ratios"]:
            table.add_row(
                entry["setting"],
                entry["runtime"],
                f"{1e3 * entry['seconds']['lpf']['median'] / batch:.2f}",
                found["ratio"],
                *cells(found),
            )
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What adaptive sampling costs a network on the CPU.")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="NAME:SIDE:BATCH, NAME an APS architecture")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument("--rounds", type=int, default=20, help="runs of each network")
    parser.add_argument("--threads", type=int, help="threads of the runtime [default: its choice]")
    add_write_option(parser, RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
