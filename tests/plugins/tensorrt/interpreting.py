"""Runs the plugins' kernels in Triton's interpreter, launched as TensorRT was told.

In a process of its own, with TRITON_INTERPRET=1. The folder given holds ``maps.npz`` and ``selections.json``;
``results.npz`` is written there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aps_deploy.plugins.tensorrt.kernels import KernelVariant, source_of
from aps_deploy.plugins.tensorrt.operators import operator_of
from aps_deploy.plugins.triton.tiles import energy_tile

TYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "INT64": torch.int64}


def run_step(step: dict[str, Any], launch: dict[str, Any], inputs: list[torch.Tensor], is_last: bool) -> Any:
    """Return what one kernel writes."""
    operator = operator_of(step["op_type"])
    assert operator is not None
    lanes = energy_tile(inputs[0].shape[1], 64).log_lanes if operator.kind == "energy" else 0
    function, constants = source_of(KernelVariant(operator, "fp32", lanes, is_last))
    kinds = launch["types"][len(inputs) :]
    outputs = []
    for shape, kind in zip(step["shapes"], kinds, strict=True):
        layout = torch.channels_last if is_last and len(shape) == 4 else torch.contiguous_format
        outputs.append(torch.empty(shape, dtype=TYPES[kind], memory_format=layout))
    grid = tuple(launch["launch"][f"grid_{axis}"] for axis in "xyz")
    function[grid](*inputs, *launch["integers"], *outputs, **constants)
    return outputs


def run_selection(steps: list[dict[str, Any]], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what a selection gives in every layout that was offered, by layout and name."""
    results = {}
    for number, first in enumerate(steps[0]["launches"]):
        layout = first["layouts"][0]
        is_last = layout != "LINEAR"
        x = images.to(memory_format=torch.channels_last) if is_last else images
        energies = run_step(steps[0], first, [x], is_last)
        (scores,) = run_step(steps[1], steps[1]["launches"][0], energies, False)
        kept, index = run_step(steps[2], steps[2]["launches"][number], [x, scores], is_last)
        found = {"kept": kept.contiguous(), "index": index, "scores": scores.sum(1)}
        results |= {f"{layout} {name}": values for name, values in found.items()}
    return results


def main() -> None:
    folder = Path(sys.argv[1])
    maps = np.load(folder / "maps.npz")
    results: dict[str, Any] = {}
    for number, steps in enumerate(json.loads((folder / "selections.json").read_text())):
        found = run_selection(steps, torch.from_numpy(maps[str(number)]))
        results |= {f"{number} {name}": values for name, values in found.items()}
    np.savez(folder / "results.npz", **results)


if __name__ == "__main__":
    main()
