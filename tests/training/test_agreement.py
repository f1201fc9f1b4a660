"""Whether a run goes on from what is saved is decided once, for all its processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from aps_deploy.training.agreement import resumed_after_restart
from aps_deploy.training.loop import run_training
from aps_deploy.training.process import Process
from aps_deploy.training.settings import TrainSettings
from tests.training.conftest import Settings


@pytest.mark.parametrize(("restarts", "is_saved"), [(None, True), ("0", True), ("1", False), ("1", True)])
def test_a_restart_goes_on_from_what_is_saved(
    restarts: str | None, is_saved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if restarts is not None:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    if is_saved:
        (tmp_path / "last.pt").touch()
    given = TrainSettings(arch="resnet20", data=tmp_path, out_dir=tmp_path, weights=Path("start.safetensors"))
    found = resumed_after_restart(given, Process())
    if restarts == "1" and is_saved:
        assert found.resume and found.weights is None and found.arch == "resnet20"
    else:
        assert found == given


def test_a_run_that_torchrun_started_again_is_continued(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torchrun` runs the command itself in every process, and the same one after a death."""
    chosen = settings(arch="resnet20", epochs=1, max_train_images=16)
    run_training(chosen)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert run_training(chosen).epochs == 1
