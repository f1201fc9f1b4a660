"""Closing a session beside threads that still run images on it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Gate:
    """Lets threads in until it is closed; closing waits until all of them have left."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_inside = 0
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether nobody is let in any more."""
        return self._is_closed

    @contextlib.contextmanager
    def enter(self) -> Iterator[bool]:
        """Give whether the block may do its work; while it does, `close` waits."""
        with self._changed:
            is_in = not self._is_closed
            self._num_inside += is_in
        try:
            yield is_in
        finally:
            if is_in:
                with self._changed:
                    self._num_inside -= 1
                    self._changed.notify_all()

    def close(self) -> bool:
        """Let nobody in any more, wait for those inside, and return whether this call was the first to close."""
        with self._changed:
            is_first, self._is_closed = not self._is_closed, True
            self._changed.wait_for(lambda: self._num_inside == 0)
        return is_first
