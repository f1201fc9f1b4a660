"""What the processes of a run must agree on before it begins: its output folder, and where in the run they stand.

The main process writes, and all read what it wrote: the state that a run is resumed from and the best checkpoint. So
on several machines the folder lies on a file system that they share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import socket
import time
from pathlib import Path

import torch

from aps_deploy.errors import InputError
from aps_deploy.training.outputs import token_file
from aps_deploy.training.process import Process
from aps_deploy.training.settings import TrainSettings
from aps_deploy.training.state import STATE_FILE, Position

_RESTARTS = "TORCHELASTIC_RESTART_COUNT"
_PATIENCE_SECONDS = 5.0
"""A network's file system may show a new file to other machines a little later."""


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


def check_shared(out_dir: Path, process: Process) -> None:
    """Refuse an output folder that the main process and another one do not share; every process calls it.

    The main process puts a file of a random name there for a moment, which all must see. Where it has no such folder
    it says nothing: there is another reason to refuse the run.

    Raises:
        InputError: this process does not see what the main process wrote.
        ApsError: the main process cannot write there.
        PeerError: either of it in another process.
    """
    if process.is_alone or not process.any(process.is_main and out_dir.is_dir()):
        return
    token = out_dir / token_file(int(process.from_main(torch.tensor(secrets.randbits(62))).item()))
    try:
        process.on_main(lambda: _put(token))
        process.together(lambda: _see(token))
    finally:
        if process.is_main:
            with contextlib.suppress(OSError):
                token.unlink(missing_ok=True)


def check_same_position(position: Position, out_dir: Path, process: Process) -> None:
    """Refuse to resume from another position than the main process; every process calls it.

    Raises:
        InputError: this process read another one.
        PeerError: another process did.
    """
    mine = torch.tensor([position.epoch, position.step])
    expected = process.from_main(mine)

    def check() -> None:
        if not torch.equal(mine, expected):
            raise _not_shared(out_dir, f"{STATE_FILE} there is not that of the main process")

    process.together(check)


def _put(token: Path) -> None:
    try:
        token.touch()
    except OSError as error:
        raise InputError(
            f"the output folder {token.parent} cannot be written ({error.strerror}); give another --out-dir."
        ) from error


def _see(token: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not token.exists():
        if time.monotonic() > deadline:
            raise _not_shared(token.parent, "a file that the main process wrote there is missing")
        time.sleep(0.1)


def _not_shared(out_dir: Path, seen: str) -> InputError:
    return InputError(
        f"--out-dir {out_dir} on {socket.gethostname()} is not the folder of the main process ({seen}); several "
        "machines need a folder on a file system that they share: give its path on each of them."
    )
