"""The steps that are compared compute the same; the times of so short a run mean nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import training_step
from benchmarks.networks import Setting
from tests.threads import one_thread  # noqa: F401 (a fixture of this folder)


# Without a blur where noise would be blurred before it is compared: its components would be 1e-8 apart, and float norms
# err by more.
@pytest.mark.parametrize("text", ["resnet20_aps3:32:4", "resnet18_aps1:64:2", "cifar_resnet50_aps1:16:2"])
def test_steps_change_the_weights_alike(text: str) -> None:
    torch.manual_seed(0)
    setting = Setting.parse(text)
    found = training_step.networks(setting)
    images, labels = torch.randn(setting.batch, 3, setting.side, setting.side), torch.arange(setting.batch)
    before = {name: value.clone() for name, value in found["aps"].named_parameters()}
    losses = {name: training_step.step_of(model, images, labels, bf16=False)() for name, model in found.items()}
    torch.testing.assert_close(losses["authors"], losses["aps"], rtol=1e-5, atol=0)
    assert losses["lpf"] != losses["aps"]
    others = dict(found["authors"].named_parameters())
    for name, value in found["aps"].named_parameters():
        assert not torch.equal(value, before[name]), name
        torch.testing.assert_close(others[name] - before[name], value - before[name], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(
    ("wanted", "device", "expected"),
    [
        ("results/training_step.json", "cpu", "results/training_step.json"),
        ("results/training_step.json", "cuda", "results/training_step-cuda.json"),
        ("other/mine.json", "cpu", "other/mine.json"),
        ("other/mine.json", "cuda", "other/mine.json"),
    ],
)
def test_the_file_that_is_written(wanted: str, device: str, expected: str) -> None:
    folder = training_step.RESULTS.parent
    assert training_step._file(folder / wanted, torch.device(device)) == folder / expected


def test_a_short_run_prints_the_ratio_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "mine.json"
    arguments = ["training_step", "--settings", "resnet20_aps3:16:2", "--rounds", "3", "--write", str(written)]
    monkeypatch.setattr(sys, "argv", arguments)
    training_step.main()
    (entry,) = json.loads(written.read_text())["measured"]
    assert [found["ratio"] for found in entry["ratios"]] == ["authors/aps", "aps/float", "aps/lpf"]
    assert entry["ratios"][0]["at_least"] == 1.3 and all(found["smallest"] > 0 for found in entry["ratios"])
    assert "authors' formulation takes" in capsys.readouterr().out
