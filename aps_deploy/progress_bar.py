"""The progress bar of a run, on stderr, and a no-op where nobody watches."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """One bar that is reused for each part of a run.

    Args:
        enabled: Show it; None shows it where stderr is a terminal.
    """

    def __init__(self, enabled: bool | None) -> None:
        shown = sys.stderr.isatty() if enabled is None else enabled
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._title = ""
        if shown:
            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, title: str, total: int, done: int) -> None:
        """Begin a part of `total` images of which `done` are done."""
        if self._bar is None:
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._title = title
        self._task = self._bar.add_task(title, total=total, completed=done, note="")

    def update(self, done: int, note: str) -> None:
        """Show that `done` images of the part are done."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)

    def report(self, title: str, done: int, total: int) -> None:
        """Show `done` of `total` of the named part; the form of callback that measurements take."""
        if self._bar is None:
            return
        if self._task is None or self._title != title:
            self.start(title, total, done)
        self.update(done, "")
