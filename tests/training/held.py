"""`aps-deploy`, but a training run stops in the middle of its second epoch, saved, until a signal reaches it.

    HELD=FILE python -m tests.training.held train --checkpoint-seconds 0 ...

FILE appears when the run is there. A run that finds FILE does not stop: it is the run that was started again. Whoever
would send a signal "in the middle of an epoch" need not race with the training, which a busy machine loses.
Processes that this one spawns import this module again, so they stop as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from aps_deploy.__main__ import main
from aps_deploy.training.run import Run

ROOT = Path(__file__).parents[2]
_MARKER = "HELD"
_EPOCH, _STEP = 1, 2
_SAVE_IF_DUE = Run.save_if_due


def _save_and_hold(run: Run) -> None:
    marker = Path(os.environ[_MARKER])
    is_here = (run.position.epoch, run.position.step) == (_EPOCH, _STEP) and run.process.is_main
    if not is_here or marker.exists():
        return _SAVE_IF_DUE(run)
    run.writer.wait()  # a save that runs would put this one off
    _SAVE_IF_DUE(run)
    run.writer.wait()
    marker.touch()
    signal.pause()


def start(words: list[str], held: Path | None = None, inside: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start `aps-deploy` with `words`; `held` appears when the run has saved the middle of its second epoch.

    Args:
        words: the command line.
        held: the file; None: the run does not stop.
        inside: the command that runs it, such as one that mounts what only it can see.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if held is not None:
        environment[_MARKER] = str(held)
    command = [*inside, sys.executable, "-m", "tests.training.held", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_until_held(process: subprocess.Popen[str], held: Path) -> None:
    """Return once the run waits for a signal."""
    deadline = time.monotonic() + 500
    while not held.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the second epoch was not reached"
        time.sleep(0.02)


if _MARKER in os.environ:
    Run.save_if_due = _save_and_hold  # type: ignore[assignment, method-assign]

if __name__ == "__main__":
    main()
