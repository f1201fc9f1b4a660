"""How many kernels adaptive sampling adds to an engine, as the compiler of TensorRT for RTX lists them; needs no GPU.

    python -m benchmarks.kernel_counts             # ResNet-18 at 224 pixels, three profiles: some minutes
    python -m benchmarks.kernel_counts --settings resnet20_aps3:32 --profiles 1:8:16
    python -m benchmarks.kernel_counts --write     # also benchmarks/results/kernel_counts.json

The networks have the same convolutions and exact pooling: `strided`, `lpf` (the same blur and plain striding) and `aps`
in its forms. The bar: one kernel for each selection and one for the indices more than `lpf`, with the default profile.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from rich.table import Table

from aps_deploy.console import print_table
from aps_deploy.export.engines.building import build_engine
from aps_deploy.export.engines.kernels import num_kernels
from aps_deploy.export.engines.profiles import parse_profile
from aps_deploy.export.engines.settings import DEFAULT_PROFILE, EngineSettings, check_settings
from aps_deploy.export.forms import PolyphaseForm
from aps_deploy.export.onnx_export import finish_onnx, in_precision, trace_onnx
from aps_deploy.export.precisions import Precision
from aps_deploy.models import create_model
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit, load_toolkit
from benchmarks.machine import machine
from benchmarks.reporting import RESULTS_FOLDER, add_write_option, keep, parse_setting, run_command

RESULTS = RESULTS_FOLDER / "kernel_counts.json"
SETTINGS = ("resnet18_aps3:224", "resnet18_aps3:64")
PROFILES = ("1:8:16", "1", "1:64:64")
PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")
FORMS: dict[str, PolyphaseForm] = {"aps": "where", "aps_gather": "gather", "aps_one_pass": "one-pass"}


def main() -> None:
    options = _options()
    toolkit = load_toolkit("trt-rtx")
    measured = [
        row for text in options.settings for row in measure(text, options.profiles, options.precisions, toolkit)
    ]
    print_table(_table(measured))
    if options.write:
        keep(options.write, {**machine(), "tensorrt_rtx": toolkit.version, "measured": measured})


def measure(
    setting: str, profiles: list[str], precisions: list[Precision], toolkit: Toolkit
) -> Iterator[dict[str, Any]]:
    """Yield the kernels of every network of a setting ``NAME:SIDE``, for each profile and precision."""
    name, (side,) = parse_setting(setting, "NAME:SIDE")
    selections = len(create_model(name).selection_layers)
    archs = {"strided": name.partition("_aps")[0], "lpf": name.replace("_aps", "_lpf"), **dict.fromkeys(FORMS, name)}
    traced = {
        arch: trace_onnx(create_model(arch).eval(), height=side, width=side, opset=20)
        for arch in dict.fromkeys(archs.values())
    }
    for precision in precisions:
        narrowed = {arch: in_precision(graph, precision, None) for arch, graph in traced.items()}
        for text in profiles:
            profile = parse_profile(text)
            settings = check_settings(EngineSettings("trt-rtx", (profile,)), toolkit)
            row: dict[str, Any] = {"setting": setting, "precision": precision, "profile": text, "kernels": {}}
            for network, arch in archs.items():
                model = finish_onnx(narrowed[arch], FORMS.get(network, "where"))
                engine = build_engine(model.SerializeToString(), settings, toolkit)
                row["kernels"][network] = num_kernels(engine.kernels)
            extra = row["kernels"]["aps_one_pass"] - row["kernels"]["lpf"]
            row["extra"] = extra
            if profile == DEFAULT_PROFILE:
                row |= {"at_most": selections + 1, "met": extra <= selections + 1}
            yield row


def _table(measured: list[dict[str, Any]]) -> Table:
    table = Table(title="kernels of an engine")
    names = ("strided", "lpf", *FORMS)
    for column in ("network", "precision", "batches", *names, "one pass - lpf", "bar", ""):
        table.add_column(column)
    for row in measured:
        counts = (str(row["kernels"][name]) for name in names)
        verdict = {True: "met", False: "missed", None: ""}[row.get("met")]
        bar = str(row.get("at_most", ""))
        table.add_row(row["setting"], row["precision"], row["profile"], *counts, str(row["extra"]), bar, verdict)
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kernels that adaptive sampling adds to an engine.")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="NAME:SIDE, NAME an APS architecture")
    parser.add_argument("--profiles", nargs="+", default=PROFILES, help="batches, as --profile takes them")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    add_write_option(parser, RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
