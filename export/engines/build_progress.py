"""How far a build is, told to people as it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from aps_deploy.runtimes.tensorrt.toolkit import Toolkit

Report = Callable[[str, int, int], None]
"""Takes what the builder does, how many of its steps are done, and how many there are."""


class Phases:
    """The nested phases of a build, told as one line: the innermost phase and its steps.

    The builder calls from several threads.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._steps: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def start(self, phase: str, num_steps: int) -> None:
        """A phase begins."""
        with self._lock:
            self._steps[phase] = [0, num_steps]
            self._report(phase, 0, num_steps)

    def step(self, phase: str, index: int) -> None:
        """Step ``index`` of a phase, counted from 0, is done."""
        with self._lock:
            if phase in self._steps:
                done = max(index + 1, self._steps[phase][0])
                self._steps[phase][0] = done
                # The line of a phase is ended by its finish, not by its last step.
                self._report(phase, min(done, self._steps[phase][1] - 1), self._steps[phase][1])

    def finish(self, phase: str) -> None:
        """A phase ends."""
        with self._lock:
            if phase in self._steps:
                total = self._steps.pop(phase)[1]
                self._report(phase, total, total)


def new_progress_monitor(toolkit: Toolkit, report: Report) -> Any:
    """Return a TensorRT progress monitor that tells ``report`` where the build is; it must outlive the build."""
    base, phases = toolkit.module.IProgressMonitor, Phases(report)

    class Monitor(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
