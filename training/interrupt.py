"""Ctrl-C and SIGTERM as a request that the loop honours between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """Context manager that turns the first SIGINT or SIGTERM into a flag.

    A second Ctrl-C raises KeyboardInterrupt at once, for the user who will not wait. Outside the main thread, where
    Python allows no signal handlers, it does nothing.

    Args:
        is_patient: Take every signal as the first: a launcher passes on what the terminal has sent already.
    """

    def __init__(self, *, is_patient: bool = False) -> None:
        self.signal_name: str | None = None
        self._is_patient = is_patient
        self._previous: dict[int, object] = {}

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def follow(self) -> None:
        """Stop as well, because another process of the run was told to."""
        self.signal_name = self.signal_name or signal.SIGTERM.name

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name is not None and number == signal.SIGINT and not self._is_patient:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
