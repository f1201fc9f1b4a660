"""What the processes of a run must agree on before it begins: whether it goes on from a saved state."""

from __future__ import annotations

import dataclasses
import os

from aps_deploy.training.process import Process
from aps_deploy.training.settings import TrainSettings
from aps_deploy.training.state import STATE_FILE

_RESTARTS = "TORCHELASTIC_RESTART_COUNT"


def resumed_after_restart(settings: TrainSettings, process: Process) -> TrainSettings:
    """Return the settings, with `resume` where the launcher started the processes again after one of them died.

    Every process calls it. A launcher counts the deaths on its own machine only, so one that counted any is enough;
    what is saved, the main process knows.
    """
    out_dir = settings.out_dir
    assert out_dir is not None
    is_restart = process.any(os.environ.get(_RESTARTS, "0") != "0")
    is_saved = process.any(process.is_main and (out_dir / STATE_FILE).is_file())
    return dataclasses.replace(settings, resume=True, weights=None) if is_restart and is_saved else settings
