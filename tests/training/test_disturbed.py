"""Runs that are really killed and disks that are really full: the run goes on from the middle of its epoch."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aps_deploy.training.loop import TrainResult, run_training
from aps_deploy.training.settings import TrainSettings
from aps_deploy.training.state import load_state
from tests.training.held import start, wait_until_held
from tests.training.test_resume import assert_same_run

STEPS = 24
# Batches of 2: an epoch of STEPS steps, many of which can be caught in the middle.
OPTIONS: dict[str, Any] = {
    "arch": "resnet20_aps3",
    "recipe": "fast",
    "batch_size": 2,
    "epochs": 2,
    "ema_decay": 0.9,
    "circular_data_aug": True,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def undisturbed(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return run_training(TrainSettings(data=data_folder, out_dir=folder, progress=False, **OPTIONS))


def words_of(settings: TrainSettings) -> list[str]:
    """Return the options that say the same as the settings."""
    words = []
    for name, value in settings.to_dict().items():
        if value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return [*words, "--no-progress"]


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ended_in_the_middle_of_an_epoch(
    number: signal.Signals, undisturbed: TrainResult, data_folder: Path, tmp_path: Path
) -> None:
    ended = tmp_path / "ended"
    chosen = TrainSettings(data=data_folder, out_dir=ended, checkpoint_seconds=0, **OPTIONS)
    process = start(["train", *words_of(chosen)], tmp_path / "held")
    wait_until_held(process, tmp_path / "held")
    process.send_signal(number)
    output, errors = process.communicate(timeout=300)
    if number == signal.SIGTERM:
        assert process.returncode == 0, errors
        assert "stopped by SIGTERM; continue with: aps-deploy train --resume" in output
    else:
        assert process.returncode == -signal.SIGKILL
    position = load_state(ended / "last.pt")["position"]
    assert position["epoch"] == 1 and 0 < position["step"] <= STEPS
    process = start(["train", "--resume", "--out-dir", str(ended)])
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"continuing epoch 2 after step {position['step']}" in errors
    assert undisturbed.test is not None and f"test accuracy {undisturbed.test.accuracy:.2%}" in output
    assert_same_run(undisturbed.out_dir, ended)


def test_saving_in_the_middle_changes_no_number(undisturbed: TrainResult, data_folder: Path, tmp_path: Path) -> None:
    run_training(TrainSettings(data=data_folder, out_dir=tmp_path / "run", checkpoint_seconds=0, **OPTIONS))
    assert_same_run(undisturbed.out_dir, tmp_path / "run")


_IN_A_SMALL_FILE_SYSTEM = """
import os, subprocess, sys
folder, size, command = sys.argv[1], sys.argv[2], sys.argv[3:]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
code = subprocess.run(command).returncode
subprocess.run(["cp", "-r", f"{folder}/run", f"{folder}.kept"], check=True)
sys.exit(code)
"""


def small_file_system(folder: Path, size: str) -> list[str]:
    """Return what starts a command that sees a file system of `size` bytes in `folder`, or skip the test."""
    folder.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    trial = subprocess.run([*own, "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, check=False)
    if trial.returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    return [*own, sys.executable, "-c", _IN_A_SMALL_FILE_SYSTEM, str(folder), size]


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small file system")
def test_a_disk_that_fills_up_in_the_middle_of_an_epoch(
    undisturbed: TrainResult, data_folder: Path, tmp_path: Path
) -> None:
    """The state of the start (2.3 MB) and the next one, which has momentum (3.4 MB), do not fit together."""
    started = TrainSettings(data=data_folder, out_dir=tmp_path / "full" / "run", checkpoint_seconds=0, **OPTIONS)
    inside = small_file_system(tmp_path / "full", "5m")
    process = start(["train", *words_of(started)], inside=inside)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "last.pt: the disk is full; free some space" in errors and "Traceback" not in errors
    kept = tmp_path / "full.kept"
    assert {path.name for path in kept.iterdir()} == {"settings.json", "last.pt"}, "no temporary file is left"
    position = load_state(kept / "last.pt")["position"]
    assert (position["epoch"], position["step"]) == (0, 0)
    assert run_training(TrainSettings(out_dir=kept, resume=True, progress=False)).epochs == 2
    assert_same_run(undisturbed.out_dir, kept)
