"""What adaptive sampling costs a whole network on the CPU: ratios of interleaved runs, beside the project's bars.

    python -m benchmarks.networks                     # every setting and runtime: about ten minutes
    python -m benchmarks.networks --rounds 5 --settings resnet20_aps3:32:64 --runtimes onnxruntime torch
    python -m benchmarks.networks --write             # also benchmarks/results/networks.json

Four networks with the same convolutions and random weights: `aps` (exact selection, as exported by default), `lpf` (the
same blur and plain striding), `strided` (neither), `authors` (APS in the formulation of its authors, see
`authors_form`). In ONNX Runtime a fifth, `aps_custom_op`, is `aps` as `export --polyphase custom-op` writes it,
computed by our CPU kernels where they are built (the results say so). All of them run the same images once in every
round.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import onnx
import torch

from aps_deploy.console import print_table
from aps_deploy.errors import InputError
from aps_deploy.export.forms import PolyphaseForm
from aps_deploy.export.onnx_export import finish_onnx, trace_onnx
from aps_deploy.models import SelectingNetwork, create_model
from benchmarks.authors_form import in_authors_form
from benchmarks.calls import (
    RUNTIMES,
    Call,
    as_array,
    onnx_call,
    random_images,
    say_without_kernels,
    set_threads,
    torch_calls,
    usable,
    with_declared_form,
)
from benchmarks.comparing import Pair, record, table_of
from benchmarks.machine import machine
from benchmarks.reporting import RESULTS_FOLDER, add_common_options, keep, parse_setting, run_command

RESULTS = RESULTS_FOLDER / "networks.json"
SETTINGS = ("resnet18_aps3:224:1", "resnet18_aps3:224:8", "resnet20_aps3:32:64")

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
        name, (side, batch) = parse_setting(text, "NAME:SIDE:BATCH")
        if "_aps" not in name:
            raise InputError(f"the setting {text} names no network with APS, such as resnet18_aps3.")
        return Setting(name, side, batch)

    def __str__(self) -> str:
        return f"{self.name}:{self.side}:{self.batch}"

    def network(self, name: str) -> SelectingNetwork:
        """Return ``aps``, ``lpf``, ``strided`` or ``authors`` of these convolutions, in evaluation mode."""
        arch = {"lpf": self.name.replace("_aps", "_lpf"), "strided": self.name.partition("_aps")[0]}.get(
            name, self.name
        )
        model = create_model(arch).eval()
        return in_authors_form(model) if name == "authors" else model

    def networks(self) -> dict[str, SelectingNetwork]:
        """Return the four networks with the same weights."""
        found = {name: self.network(name) for name in ("aps", "lpf", "strided", "authors")}
        for model in found.values():
            model.load_state_dict(found["aps"].state_dict())
        return found


def main() -> None:
    options = _options()
    say_without_kernels()
    measured = []
    for runtime in usable(options.runtimes):
        for setting in map(Setting.parse, options.settings):
            measured.append(measure(setting, runtime, options.rounds, options.threads))
    document = {**machine(), "num_threads": options.threads, "rounds": options.rounds, "measured": measured}
    print_table(table_of(measured))
    if options.write:
        keep(options.write, document)


def measure(setting: Setting, runtime: str, rounds: int, num_threads: int | None) -> dict[str, Any]:
    """Return the record of the networks of one setting, with the bar of each ratio."""
    images = random_images((setting.batch, 3, setting.side, setting.side))
    torch.manual_seed(0)
    networks = setting.networks()
    if runtime == "onnxruntime":
        files = {name: exported(model, setting.side) for name, model in networks.items()}
        files["aps_custom_op"] = exported(networks["aps"], setting.side, "custom-op")
        calls: dict[str, Call] = {name: onnx_call(file, as_array(images), num_threads) for name, file in files.items()}
    else:
        set_threads(num_threads)
        calls = torch_calls(runtime, {**networks}, images)
    return record(str(setting), runtime, calls, _pairs(setting, runtime), rounds)


def _pairs(setting: Setting, runtime: str) -> list[Pair]:
    bar = MOST_OVER_LPF.get((runtime, str(setting)))
    return [
        Pair("aps", "lpf", at_most=bar),
        Pair("aps_custom_op", "lpf", at_most=bar),
        Pair("aps", "strided"),
        Pair("aps_custom_op", "strided"),
        Pair("authors", "aps", better="higher", at_least=LEAST_UNDER_AUTHORS),
        Pair("authors", "aps_custom_op", better="higher", at_least=LEAST_UNDER_AUTHORS),
    ]


def exported(model: SelectingNetwork, side: int, form: PolyphaseForm = "where") -> onnx.ModelProto:
    """Return the file of ``model`` for square images of ``side`` pixels, in one of the forms."""
    return with_declared_form(finish_onnx(trace_onnx(model, height=side, width=side, opset=20), form), form)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What adaptive sampling costs a network on the CPU.")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="NAME:SIDE:BATCH, NAME an APS architecture")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    add_common_options(parser, RESULTS, rounds=20)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
