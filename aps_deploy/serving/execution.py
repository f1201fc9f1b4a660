"""Running the requests of one batch, on a worker's thread."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError
from aps_deploy.serving.engine import Tensors
from aps_deploy.serving.statistics import Durations

logger = logging.getLogger(__name__)

WORKER = "worker "
"""How the names of the threads that run models begin."""

Outputs = list[npt.NDArray[Any]]


class Engine(Protocol):
    """What runs tensors."""

    def run(self, tensors: Tensors) -> Outputs:
        """Return the outputs for one tensor per input."""
        ...


@dataclasses.dataclass(slots=True, eq=False)
class Work:
    """One request, on its way through the queue and a run.

    Attributes:
        tensors: one per input; rows along the first dimension where the model batches.
        num_rows: images in it.
        shapes: shapes without the rows: only works of equal shapes share a run.
        answer: receives the outputs, or the error; cancelled when the client is gone.
        arrived_ns: when it came, by the monotonic clock.
        deadline_ns: when it expires; None for never.
        is_background: whether it stands behind every other request, and is in no count of requests.
        observer: told of the run that computed it; None where nobody asked.
    """

    tensors: Tensors
    num_rows: int
    shapes: tuple[tuple[int, ...], ...]
    answer: asyncio.Future[Outputs]
    arrived_ns: int
    deadline_ns: int | None = None
    is_background: bool = False
    observer: RunObserver | None = None


@dataclasses.dataclass(frozen=True)
class Execution:
    """What became of the works of one run.

    Attributes:
        works: the requests.
        results: outputs or error of each.
        started_ns: when the run began, by the monotonic clock.
        durations: how long its parts took.
    """

    works: Sequence[Work]
    results: Sequence[Outputs | ApsError]
    started_ns: int
    durations: Durations

    @property
    def num_rows(self) -> int:
        """Images in the run."""
        return sum(work.num_rows for work in self.works)


RunObserver = Callable[[Execution], None]
"""Is told of a run when it is over, on the event loop's thread."""


def execute(engine: Engine, works: Sequence[Work]) -> list[Execution]:
    """Run requests together; where that fails, each alone, so that none suffers from another's."""
    execution = _execute_together(engine, works)
    if len(works) > 1 and isinstance(execution.results[0], ApsError):
        return [_execute_together(engine, [work]) for work in works]
    return [execution]


def _execute_together(engine: Engine, works: Sequence[Work]) -> Execution:
    started = time.monotonic_ns()
    tensors = works[0].tensors
    if len(works) > 1:
        tensors = {name: np.concatenate([work.tensors[name] for work in works]) for name in tensors}
    joined = time.monotonic_ns()
    results: Sequence[Outputs | ApsError]
    try:
        outputs = engine.run(tensors)
        computed = time.monotonic_ns()
        results = [outputs] if len(works) == 1 else _split(outputs, [work.num_rows for work in works])
    except Exception as error:
        computed = time.monotonic_ns()
        if not isinstance(error, ApsError):
            logger.exception("a run failed")
            error = ApsError("the run failed; the server's log says more.")
        results = [error] * len(works)
    split = time.monotonic_ns()
    return Execution(works, results, started, Durations(joined - started, computed - joined, split - computed))


def _split(outputs: Outputs, counts: Sequence[int]) -> list[Outputs]:
    """Return each request's rows of every output."""
    total = sum(counts)
    for values in outputs:
        if values.ndim == 0 or len(values) != total:
            raise ApsError(f"an output has shape {list(values.shape)} for a batch of {total}, not one row per image.")
    ends = np.cumsum(counts)
    return [[values[end - count : end] for values in outputs] for count, end in zip(counts, ends.tolist(), strict=True)]


class Worker:
    """A thread that runs batches on one engine.

    Args:
        engine: what runs them.
        deliver: called on the event loop's thread with the worker and what became of a batch.
        name: what the thread's name ends with.
    """

    def __init__(self, engine: Engine, deliver: Callable[[Worker, list[Execution]], None], name: str) -> None:
        self._engine = engine
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[Sequence[Work] | None] = queue.SimpleQueue()
        # A daemon, so that a run that never ends cannot keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=f"{WORKER}{name}", daemon=True)
        self._thread.start()

    def start(self, works: Sequence[Work]) -> None:
        """Run these requests together as soon as the thread is free."""
        self._inbox.put(works)

    def stop(self) -> None:
        """End the thread after what it runs now."""
        self._inbox.put(None)

    def _work(self) -> None:
        while (works := self._inbox.get()) is not None:
            executions = execute(self._engine, works)
            try:
                self._loop.call_soon_threadsafe(self._deliver, self, executions)
            except RuntimeError:
                return  # the loop is closed: the process is ending


class LoopWorker:
    """Runs batches where it is called, on the event loop itself: for networks faster than a thread wakes up.

    Args:
        engine: what runs them.
        deliver: called with the worker and what became of a batch.
    """

    def __init__(self, engine: Engine, deliver: Callable[[LoopWorker, list[Execution]], None]) -> None:
        self._engine = engine
        self._deliver = deliver

    def start(self, works: Sequence[Work]) -> None:
        """Run these requests together."""
        self._deliver(self, execute(self._engine, works))

    def stop(self) -> None:
        """Do nothing: there is no thread."""
