"""Who owns the folder of a run, however its processes end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from aps_deploy.errors import InputError
from aps_deploy.training.outputs import owned_out_dir


def own_beside_a_child(folder: Path, ready: int) -> None:
    """Own a folder, with a forked child, until both are killed; the child writes its number to `ready`."""
    with owned_out_dir(folder, is_new=True):
        if os.fork() == 0:
            os.write(ready, str(os.getpid()).encode())
        signal.pause()


@pytest.mark.skipif(sys.platform == "win32", reason="forks processes")
def test_a_killed_owner_leaves_the_folder_free_at_once(tmp_path: Path) -> None:
    """As with loader processes, which live on for seconds."""
    told, ready = os.pipe()
    owner = os.fork()
    if owner == 0:
        try:
            own_beside_a_child(tmp_path / "run", ready)
        finally:
            os._exit(1)
    child = int(os.read(told, 20))
    try:
        with pytest.raises(InputError, match="another process"), owned_out_dir(tmp_path / "run", is_new=False):
            pass
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        os.kill(child, 0)  # it lives
        with owned_out_dir(tmp_path / "run", is_new=False):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(told)
        os.close(ready)


@pytest.mark.skipif(sys.platform == "win32", reason="forks processes")
def test_a_child_that_ends_takes_the_lock_from_nobody(tmp_path: Path) -> None:
    with owned_out_dir(tmp_path / "run", is_new=True):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(InputError, match="another process"), owned_out_dir(tmp_path / "run", is_new=False):
            pass
