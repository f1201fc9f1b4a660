"""Files that would end the process instead of raising an error.

ONNX Runtime checks some of a graph by assertions: a convolution whose kernel is wider than its map, as a damaged file
may have it, aborts Python itself, and onnx's own checker too. So every ONNX file is first opened in a process of its
own, which is kept for the next file and started again where one killed it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from aps_deploy.errors import InputError
from aps_deploy.runtimes.availability import resolve_runtime
from aps_deploy.runtimes.opening import ONNX_SUFFIXES

_TRIALS = """
import json
import sys

import onnxruntime

options = onnxruntime.SessionOptions()
options.log_severity_level = 4
for line in sys.stdin:
    try:
        onnxruntime.InferenceSession(json.loads(line), options, providers=["CPUExecutionProvider"])
    except Exception:
        pass  # an error is no crash: the process that asked meets it, too, and says what it means
    print("done", flush=True)
"""


class TrialProcess:
    """A process that opens files and may die of it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def survives(self, path: Path) -> bool:
        """Return whether ONNX Runtime opens the file, or refuses it, without ending the process."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(json.dumps(os.fspath(path.resolve())) + "\n")
                process.stdin.flush()
                if process.stdout.readline() == "done\n":
                    return True
            except BrokenPipeError:
                pass
            # It is dying and may still look alive to the next file.
            self.stop()
            return False

    def stop(self) -> None:
        """End the process, if one runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            # Closing flushes what a dead process never read.
            with contextlib.suppress(BrokenPipeError):
                process.communicate()
            process.wait()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _TRIALS],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self._process


_TRIAL = TrialProcess()
atexit.register(_TRIAL.stop)


def refuse_what_crashes(file: str | os.PathLike[str], runtime: str | None = None) -> None:
    """Do nothing where a file can be tried; whether it can be used, the session says.

    Args:
        file: any file; only ONNX files are looked at.
        runtime: in which it will be opened; None is ONNX Runtime, and for others nothing is known.

    Raises:
        InputError: ONNX Runtime crashes on it.
    """
    path = Path(file)
    if path.suffix.lower() not in ONNX_SUFFIXES or not path.is_file():
        return
    if runtime is not None and resolve_runtime(runtime).module != "onnxruntime":
        return
    if not _TRIAL.survives(path):
        raise InputError(f"{file} is damaged: ONNX Runtime crashes on it; export it again.")
