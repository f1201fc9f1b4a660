"""Streams that images run on, one for each thread at a time, and the shapes that are ready on each."""

from __future__ import annotations

import collections
import contextlib
import queue
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from aps_deploy.runtimes.tensorrt.shape_ranges import Shape, ShapeRange
from aps_deploy.runtimes.tensorrt.shape_runner import ShapeRunner

MAX_SHAPES = 8
"""Shapes kept ready in each lane; each holds memory for its maps, so the one unused for longest makes room.

All that runs are filled up to in a profile of 1 to 64 images (`pieces_of`), with a best number that is no power of two.
"""


class Lane:
    """A stream and the runners on it, the least recently used first."""

    def __init__(self, new_runner: Callable[[ShapeRange, Shape, Any], ShapeRunner]) -> None:
        self._new_runner = new_runner
        self._stream: Any = None
        self._runners: collections.OrderedDict[tuple[int, Shape], ShapeRunner] = collections.OrderedDict()

    def runner(self, profile: ShapeRange, shape: Shape) -> ShapeRunner:
        """Return the runner for a shape, made where there is none yet."""
        import torch

        if self._stream is None:
            self._stream = torch.cuda.Stream()
        key = (profile.index, shape)
        if key not in self._runners:
            if len(self._runners) >= MAX_SHAPES:
                self.finish()  # what was queued for tensors may still be using it
                self._runners.popitem(last=False)
            self._runners[key] = self._new_runner(profile, shape, self._stream)
        self._runners.move_to_end(key)
        return self._runners[key]

    def finish(self) -> None:
        """Wait until the GPU has done what was queued here."""
        if self._stream is not None:
            self._stream.synchronize()

    def close(self) -> None:
        """Drop the runners, once the GPU has done what was queued here."""
        with contextlib.suppress(RuntimeError):  # of a run that failed, and said so
            self.finish()
        self._runners.clear()


class Lanes:
    """The lanes of a session; each is lent to one thread at a time.

    Args:
        lanes: all of them.
    """

    def __init__(self, lanes: Iterable[Lane]) -> None:
        # The one used last comes first: its shapes are ready.
        self._free: queue.LifoQueue[Lane] = queue.LifoQueue()
        for lane in lanes:
            self._free.put(lane)

    @contextlib.contextmanager
    def lend(self) -> Iterator[Lane]:
        """Lend a lane for the block, waiting until one is free."""
        lane = self._free.get()
        try:
            yield lane
        finally:
            self._free.put(lane)

    def close(self) -> None:
        """Wait for the GPU and drop all lanes; no thread has one any more."""
        # Dropped here, not with the last reference to a lane, which a thread may keep a moment longer.
        while not self._free.empty():
            self._free.get().close()
