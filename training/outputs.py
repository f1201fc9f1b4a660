"""The files of a run and their names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.models import save_checkpoint
from aps_deploy.training.data import TrainData
from aps_deploy.training.settings import TrainSettings
from aps_deploy.training.state import STATE_FILE, Position, save_state
from aps_deploy.training.step import Trainer

LAST_FILE = "last.safetensors"
BEST_FILE = "best.safetensors"
SETTINGS_FILE = "settings.json"

# A checkpoint travels; the folders of the machine it was made on, and how it was run there, do not.
_PRIVATE = frozenset({"data", "out_dir", "weights", "resume", "evaluate", "progress", "workers", "download", "device"})


def check_out_dir(out_dir: Path) -> None:
    """Refuse an output folder that holds anything.

    Raises:
        InputError: the folder is not empty, or is a file.
    """
    if out_dir.is_dir() and any(os.scandir(out_dir)):
        hint = " add --resume to continue its run, or" if (out_dir / STATE_FILE).is_file() else ""
        raise InputError(f"the output folder {out_dir} exists and is not empty;{hint} give a new --out-dir.")
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"--out-dir {out_dir} is a file; give the name of a new folder.")


def make_out_dir(out_dir: Path) -> None:
    """Create the output folder of a run.

    Raises:
        InputError: it cannot be created there.
    """
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the output folder {out_dir} cannot be created ({error.strerror}); give another.") from error


def shareable_settings(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that were given, without paths and machine."""
    return {key: value for key, value in settings.to_dict().items() if value is not None and key not in _PRIVATE}


def save_progress(
    out_dir: Path,
    trainer: Trainer,
    data: TrainData,
    position: Position,
    settings: TrainSettings,
    *,
    metrics: dict[str, Any] | None = None,
    is_best: bool = False,
) -> None:
    """Write `last.safetensors`, with `is_best` also `best.safetensors`, and then the training state.

    Args:
        out_dir: Folder of the run.
        trainer: Model, optimizer and scaler to save.
        data: Preprocessing and class names for the checkpoints.
        position: Where the run stands.
        settings: Those of the run.
        metrics: The epoch's line of the metrics file, for the checkpoint's record.
        is_best: Whether this is the checkpoint to use so far.

    Raises:
        ApsError: the disk is full; the files of the last complete save are still whole.
    """
    training = {
        "settings": shareable_settings(settings),
        "epochs": position.epoch,
        "steps_in_epoch": position.step,
        "num_epochs": trainer.recipe.epochs,
        "precision": trainer.arithmetic.name,
        "metrics": metrics,
    }
    for name in (BEST_FILE, LAST_FILE) if is_best else (LAST_FILE,):
        save_checkpoint(
            out_dir / name,
            trainer.model,
            preprocessing=data.preprocessing,
            class_names=data.class_names,
            training=training,
        )
    save_training_state(out_dir, trainer, position, settings)


def save_training_state(out_dir: Path, trainer: Trainer, position: Position, settings: TrainSettings) -> None:
    """Write the training state alone, which is all that `--resume` needs.

    Raises:
        ApsError: the disk is full; the older state is still whole.
    """
    save_state(
        out_dir / STATE_FILE,
        model=trainer.model,
        optimizer=trainer.optimizer,
        scaler=trainer.scaler,
        position=position,
        settings=settings.to_dict(),
    )
