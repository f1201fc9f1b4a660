"""Files written beside the training: one thread, one job at a time, in the order they came.

A job holds copies of everything it writes, so the optimizer goes on meanwhile. At most one job waits for nothing: the
next one waits for it, which bounds the memory of the copies to one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class BackgroundWriter:
    """Context manager around the thread; leaving it waits for the job that runs.

    A failed job is raised by the next call of `submit` or `wait`, once. What is left of the run must not be written
    after it, because later files say that the earlier ones are there.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def has_failed(self) -> bool:
        """Whether a job failed and nobody was told so far."""
        return self._failure is not None

    @property
    def is_busy(self) -> bool:
        """Whether a job runs."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, job: Callable[[], object]) -> None:
        """Run a job in the thread, after the one before it.

        Raises:
            ApsError: the job before it could not write; this one is not run.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint-writer")
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is left to write.

        Raises:
            ApsError: the last job could not write.
        """
        self._join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        else:
            self._join()  # what ended the run is the news, not what could not be written after it

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            self._failure = error
