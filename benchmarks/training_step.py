"""What a training step costs with APS: ratios of interleaved steps, beside the project's bar.

    python -m benchmarks.training_step                           # a few minutes
    python -m benchmarks.training_step --rounds 5 --settings resnet20_aps3:32:64
    python -m benchmarks.training_step --device cuda --write     # also benchmarks/results/training_step-cuda.json

A step is the forward pass, cross-entropy, the backward pass and an update by SGD with momentum, in training mode. The
networks have the same convolutions and the same initial weights: `aps` (exact selection, the default), `float` (APS
with float norms), `lpf` (the same blur and plain striding) and `authors`: APS in the formulation of its authors, every
component gathered by an `index_select` of the whole map, a `torch.norm` each (see `authors_step`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table

from aps_deploy.bench.timing import interleaved, ratios, spread
from aps_deploy.console import print_table
from aps_deploy.models import SelectingNetwork, create_model
from benchmarks.authors_step import in_permuting_form
from benchmarks.machine import machine
from benchmarks.networks import Setting
from benchmarks.reporting import add_write_option, cells, judged, keep, run_command

RESULTS = Path(__file__).with_name("results")
SETTINGS = ("resnet18_aps3:224:8", "resnet20_aps3:32:128")

# What the project wants of `authors` over `aps`, by device.
LEAST_UNDER_AUTHORS = {"cpu": 1.3, "cuda": 1.5}


def main() -> None:
    options = _options()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    measured = [measure(Setting.parse(text), device, options.bf16, options.rounds) for text in options.settings]
    print_table(_table(measured))
    for entry in measured:
        ratio = entry["ratios"][0]
        print(f"{entry['setting']}: a step of the authors' formulation takes {ratio['median']:.2f} times that of aps")
    if options.write:
        document = {
            **machine(),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "precision": "bf16" if options.bf16 else "float32",
            "num_threads": torch.get_num_threads(),
            "rounds": options.rounds,
            "measured": measured,
        }
        keep(_file(options.write, device), document)


def _file(wanted: Path, device: torch.device) -> Path:
    """Return the file that was asked for; of the kept result there is one for each kind of device."""
    is_kept = wanted == RESULTS / "training_step.json"
    return wanted.with_stem(f"{wanted.stem}-{device.type}") if is_kept and device.type != "cpu" else wanted


def networks(setting: Setting) -> dict[str, SelectingNetwork]:
    """Return the networks that are compared, in training mode, with the same weights."""
    found = {
        "aps": create_model(setting.name),
        "float": create_model(setting.name, selection="float"),
        "lpf": create_model(setting.name.replace("_aps", "_lpf")),
        "authors": in_permuting_form(create_model(setting.name)),
    }
    for model in found.values():
        model.load_state_dict(found["aps"].state_dict())
        model.train()
    return found


def measure(setting: Setting, device: torch.device, bf16: bool, rounds: int) -> dict[str, Any]:
    """Return the seconds of a step of every network and the ratios that matter, with the bar."""
    torch.manual_seed(0)
    images = torch.randn(setting.batch, 3, setting.side, setting.side, device=device)
    labels = torch.randint(10, (setting.batch,), device=device)
    calls = {name: step_of(model.to(device), images, labels, bf16=bf16) for name, model in networks(setting).items()}
    seconds = interleaved(calls, rounds)
    compared = [("authors", "aps"), ("aps", "float"), ("aps", "lpf")]
    found = []
    for one, other in compared:
        bar = LEAST_UNDER_AUTHORS[device.type] if one == "authors" else None
        found.append({"ratio": f"{one}/{other}", **judged(spread(ratios(seconds[one], seconds[other])), at_least=bar)})
    return {
        "setting": str(setting),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratios": found,
    }


def step_of(
    model: SelectingNetwork, images: torch.Tensor, labels: torch.Tensor, *, bf16: bool
) -> Callable[[], torch.Tensor]:
    """Return what takes one training step and returns the loss, when the device is done with it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if images.device.type == "cuda":
            torch.cuda.synchronize()
        return loss.detach()

    return step


def _table(measured: list[dict[str, Any]]) -> Table:
    table = Table(title="training step, ratios of interleaved runs: median (quartiles)")
    for column in ("network:side:batch", "ms per image, aps", "ratio", "median", "quartiles", "bar", ""):
        table.add_column(column)
    for entry in measured:
        batch = Setting.parse(entry["setting"]).batch
        milliseconds = f"{1e3 * entry['seconds']['aps']['median'] / batch:.2f}"
        for found in entry["ratios"]:
            table.add_row(entry["setting"], milliseconds, found["ratio"], *cells(found))
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What adaptive sampling costs a training step.")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="NAME:SIDE:BATCH, NAME an APS architecture")
    parser.add_argument("--device", choices=tuple(LEAST_UNDER_AUTHORS), default="cpu")
    parser.add_argument(
        "--bf16", action="store_true", help="autocast to bf16, as training does where the device has it"
    )
    parser.add_argument("--rounds", type=int, default=10, help="steps of each network")
    parser.add_argument("--threads", type=int, help="threads of PyTorch [default: its choice]")
    add_write_option(parser, RESULTS / "training_step.json")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
