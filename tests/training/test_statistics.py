"""Batch norm statistics that processes do not share: one network is validated, and it is the one that is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from aps_deploy.training import loop
from aps_deploy.training.process import Process
from aps_deploy.training.settings import TrainSettings
from aps_deploy.training.validate import Validation
from tests.training.conftest import Settings
from tests.training.ranks import run_ranks


def statistics_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers() if "running" in name}


def train(process: Process, runs: list[TrainSettings]) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Train; return for every run the statistics of the network that was validated, and of the one that is trained."""
    validated: list[dict[str, Tensor]] = []
    original = loop.validate

    def looked_at(model: nn.Module, *arguments: Any, **more: Any) -> Validation | None:
        validated.append(statistics_of(model))
        return original(model, *arguments, **more)

    loop.validate = looked_at
    found = []
    for settings in runs:
        run, stored = loop.setup(settings, process)
        run.data = dataclasses.replace(run.data, test=None)  # else the best network is measured last
        loop.main(run, stored)
        found.append((validated[-1], statistics_of(run.trainer.model)))
    return found


def test_what_is_validated_is_what_is_kept(settings: Settings, tmp_path: Path) -> None:
    once = {"arch": "resnet20", "epochs": 1}
    runs = [settings(out_dir=tmp_path / f"ema{decay}", ema_decay=decay, **once) for decay in (0.0, 0.9)]
    main, other = run_ranks(train, tmp_path / "ranks", runs)
    for chosen, (validated, _), (others_validated, _) in zip(runs, main, other, strict=True):
        assert chosen.out_dir is not None and validated
        kept = load_file(chosen.out_dir / "last.safetensors")
        for name, values in validated.items():
            assert torch.equal(values, others_validated[name]), (chosen.ema_decay, name)
            assert torch.equal(values, kept[name]), (chosen.ema_decay, name)
    trained, others_trained = main[1][1], other[1][1]
    assert any(not torch.equal(trained[name], others_trained[name]) for name in trained), "each has its own images"
