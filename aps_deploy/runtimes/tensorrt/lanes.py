"""Streams that images run on, one for each thread at a time, and the shapes that are ready on each."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
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
    """The lanes of a session: each is lent to one thread at a time, until they are closed.

    Args:
        lanes: all of them.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._free = list(lanes)
        self._num_lanes = len(lanes)
        self._is_closed = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def lend(self) -> Iterator[Lane | None]:
        """Lend a lane for the block, waiting until one is free; None where they are closed, or are meanwhile."""
        lane = None
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._free or self._is_closed)
                if not self._is_closed:
                    lane = self._free.pop()  # the one used last, whose shapes are ready
            yield lane
        finally:
            if lane is not None:
                with self._changed:
                    self._free.append(lane)
                    self._changed.notify_all()

    def close(self) -> None:
        """Lend no lane any more, wait for those that are lent and for the GPU, and drop all of them."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._free) == self._num_lanes)
            # Dropped here, not with the last reference to a lane, which a thread may keep a moment longer.
            for lane in self._free:
                lane.close()
