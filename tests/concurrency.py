"""Threads whose results can be looked at, and waiting for what another thread or process brings about."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

WAIT_S = 60


class Caller:
    """A thread that does one thing; what came of it is in `result`."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self._thread = threading.Thread(target=self._call, args=(work,), daemon=True)
        self._thread.start()

    def _call(self, work: Callable[[], Any]) -> None:
        try:
            self.result = work()
        except BaseException as error:  # shown by whoever compares
            self.result = error

    @property
    def is_busy(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> Any:
        """Return what came of it, after waiting for it."""
        self._thread.join(WAIT_S)
        assert not self.is_busy, "it waits for ever"
        return self.result


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never comes"
        time.sleep(0.01)
