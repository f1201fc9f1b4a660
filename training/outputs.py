"""The files of a run and their names."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.files import leftovers
from aps_deploy.models import SelectingNetwork, save_checkpoint
from aps_deploy.training.curves import CURVES_FILE
from aps_deploy.training.data import TrainData
from aps_deploy.training.metrics import METRICS_FILE
from aps_deploy.training.settings import TrainSettings
from aps_deploy.training.state import STATE_FILE, Position, captured_state, write_state
from aps_deploy.training.step import Trainer

if sys.platform != "win32":
    import fcntl

LAST_FILE = "last.safetensors"
BEST_FILE = "best.safetensors"
SETTINGS_FILE = "settings.json"
NON_FINITE_FILE = "non-finite-loss.json"
"""Written where a loss that is not finite stopped the run: epoch, step, learning rate and images of the batch."""

_WRITTEN = (STATE_FILE, LAST_FILE, BEST_FILE, SETTINGS_FILE, METRICS_FILE, CURVES_FILE, NON_FINITE_FILE)

# A checkpoint travels; the folders of the machine it was made on, and how it was run there, do not.
PRIVATE_SETTINGS = frozenset(
    {
        "data",
        "out_dir",
        "weights",
        "resume",
        "evaluate",
        "progress",
        "workers",
        "download",
        "device",
        "checkpoint_seconds",
    }
)


def check_out_dir(out_dir: Path) -> None:
    """Refuse an output folder that holds anything but what a killed run left of files it had begun to write.

    Raises:
        InputError: the folder is not empty, or is a file.
    """
    if out_dir.is_dir() and set(out_dir.iterdir()) - set(_remains(out_dir)):
        hint = " add --resume to continue its run, or" if (out_dir / STATE_FILE).is_file() else ""
        raise InputError(f"the output folder {out_dir} exists and is not empty;{hint} give a new --out-dir.")
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"--out-dir {out_dir} is a file; give the name of a new folder.")


def token_file(number: int) -> str:
    """Return the name of the file by which processes find out whether they share the output folder."""
    return f".shared-{number}"


def _remains(out_dir: Path) -> list[Path]:
    """Return what a killed run may have left that is of no use to anybody."""
    tokens = [path for path in out_dir.glob(".shared-*") if path.name.removeprefix(".shared-").isdecimal()]
    return leftovers(out_dir, _WRITTEN) + tokens


@contextlib.contextmanager
def owned_out_dir(out_dir: Path, *, is_new: bool) -> Iterator[None]:
    """Create the output folder where it is missing, and keep other processes from training into it meanwhile.

    The folder itself is locked, so that no file is left behind and the lock ends with the process, however it ends.
    What a killed run had begun to write is removed.

    Args:
        out_dir: Folder of the run.
        is_new: Whether the run starts, so that the folder must still be empty.

    Raises:
        InputError: it cannot be created there, another process trains into it, or a new run finds files in it.
    """
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the output folder {out_dir} cannot be created ({error.strerror}); give another.") from error
    with _locked(out_dir) as is_locked:
        if is_locked:  # else another run may be writing them
            for path in _remains(out_dir):
                path.unlink(missing_ok=True)
        if is_new:
            check_out_dir(out_dir)
        yield


_held: set[int] = set()
"""Descriptors of the folders that this process has locked."""


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Yield whether the folder is locked: not where that cannot be done.

    Raises:
        InputError: another process has locked it.
    """
    if sys.platform == "win32":
        yield False  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    is_locked = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another process is training into {folder}; wait for it, or give another --out-dir."
            ) from None
        except OSError:
            is_locked = False  # a file system without locks
        yield is_locked
    finally:
        if descriptor in _held:  # closed already in a forked process
            _held.remove(descriptor)
            os.close(descriptor)


def _let_go() -> None:
    # Loader processes outlive a main process that was killed, by seconds, and the lock ends with the last descriptor.
    # Closing takes it from nobody else; unlocking would take it from the main process.
    while _held:
        os.close(_held.pop())


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go)


def shareable_settings(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that were given, without paths and machine."""
    return {
        key: value for key, value in settings.to_dict().items() if value is not None and key not in PRIVATE_SETTINGS
    }


@dataclass(frozen=True)
class Snapshot:
    """Copies of what a run stands at, to be written while it goes on.

    Attributes:
        out_dir: Folder of the run.
        state: The training state, which is all that `--resume` needs.
        network: The network to keep, on the CPU; None where only the state is to be written.
        record: What the checkpoint says of its training.
        data: Preprocessing and class names for the checkpoint.
    """

    out_dir: Path
    state: dict[str, Any]
    network: SelectingNetwork | None
    record: dict[str, Any]
    data: TrainData

    def write(self, *, is_best: bool = False) -> None:
        """Write `last.safetensors`, with `is_best` also `best.safetensors`, and then the training state.

        Raises:
            ApsError: the disk is full; the files of the last complete save are still whole.
        """
        if self.network is not None:
            for name in (BEST_FILE, LAST_FILE) if is_best else (LAST_FILE,):
                save_checkpoint(
                    self.out_dir / name,
                    self.network,
                    preprocessing=self.data.preprocessing,
                    class_names=self.data.class_names,
                    training=self.record,
                )
        write_state(self.out_dir / STATE_FILE, self.state)


def snapshot(
    out_dir: Path,
    trainer: Trainer,
    data: TrainData,
    position: Position,
    settings: TrainSettings,
    *,
    with_network: bool,
    metrics: dict[str, Any] | None = None,
) -> Snapshot:
    """Return copies of where a run stands.

    Args:
        out_dir: Folder of the run.
        trainer: Model, optimizer and scaler to copy.
        data: Preprocessing and class names for the checkpoints.
        position: Where the run stands.
        settings: Those of the run.
        with_network: Also copy the network that is kept, for `last.safetensors` and `best.safetensors`.
        metrics: The epoch's line of the metrics file, for the checkpoint's record.
    """
    record = {
        "settings": shareable_settings(settings),
        "epochs": position.epoch,
        "steps_in_epoch": position.step,
        "num_epochs": trainer.recipe.epochs,
        "precision": trainer.arithmetic.name,
        "metrics": metrics,
    }
    state = captured_state(
        model=trainer.model,
        optimizer=trainer.optimizer,
        scaler=trainer.scaler,
        average=trainer.average,
        position=position,
        settings=settings.to_dict(),
    )
    network = copy.deepcopy(trainer.result).cpu() if with_network else None
    return Snapshot(out_dir, state, network, record, data)
