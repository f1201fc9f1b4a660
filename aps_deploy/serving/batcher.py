"""The queue in front of a model, and which of the waiting requests share a run.

A free worker takes what queued while it was busy, at once: at low load nothing waits, at high load batches fill by
themselves. With a delay, the oldest request waits that long for company. Everything here happens on the event loop's
thread; the runs do not, but for those of networks that are faster than a thread wakes up.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Sequence

from aps_deploy.errors import ApsError
from aps_deploy.serving.engine import Tensors
from aps_deploy.serving.errors import UnavailableError, serving_error_of
from aps_deploy.serving.execution import Engine, Execution, LoopWorker, Outputs, RunObserver, Work, Worker
from aps_deploy.serving.statistics import FailureReason, ModelStatistics

_SWEEP_SECONDS = 0.02
"""How often the queue is searched for requests whose client left or whose deadline passed."""


@dataclasses.dataclass(frozen=True)
class BatchPolicy:
    """How requests of one model are joined.

    Attributes:
        max_rows: most images in one run.
        joins: whether requests share runs at all.
        delay_ns: how long the oldest request waits for others while the batch is not full.
        max_queue: requests that may wait; more are refused.
        deadline_ns: how long a request may wait; None for ever.
    """

    max_rows: int
    joins: bool = True
    delay_ns: int = 0
    max_queue: int = 256
    deadline_ns: int | None = None


class Batcher:
    """The queue of one model and the workers that empty it.

    Args:
        engines: one per worker.
        policy: how requests are joined.
        statistics: where runs and requests are counted.
        name: the model's name, for messages.
        runs_on_loop: whether runs are so short that they need no thread: handing one over takes longer.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        policy: BatchPolicy,
        statistics: ModelStatistics,
        name: str = "model",
        *,
        runs_on_loop: bool = False,
    ) -> None:
        self.policy = policy
        self._statistics = statistics
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Work] = deque()
        self._runs_on_loop = runs_on_loop
        self._is_due = False  # a dispatch in this turn of the event loop
        self._workers: list[Worker | LoopWorker] = [
            LoopWorker(engine, self._deliver) if runs_on_loop else Worker(engine, self._deliver, f"{name}-{number}")
            for number, engine in enumerate(engines)
        ]
        self._idle = list(self._workers)
        self._wake: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def num_pending(self) -> int:
        """Requests that wait or run."""
        return len(self._queue) + (len(self._workers) - len(self._idle))

    def submit(
        self,
        tensors: Tensors,
        num_rows: int,
        *,
        deadline_ns: int | None = None,
        arrived_ns: int | None = None,
        is_background: bool = False,
        observer: RunObserver | None = None,
    ) -> asyncio.Future[Outputs]:
        """Queue one request and return the future of its outputs; cancelling it drops the request.

        Args:
            tensors: one per input.
            num_rows: images in it.
            deadline_ns: when it expires, by the monotonic clock; the policy's deadline holds as well.
            arrived_ns: when it came, by the monotonic clock; None for now.
            is_background: whether every other request goes first, and may take its place in a full queue; it is in no
                count of requests, only in those of runs.
            observer: told of the run that computes it.

        Raises:
            UnavailableError: the queue is full, or the model is being unloaded.
        """
        now = time.monotonic_ns()
        if self._is_closed or not self._has_room(is_background=is_background):
            if not is_background:
                self._statistics.add_failure("REJECTED")
            if self._is_closed:
                raise UnavailableError(f"model '{self._name}' is being unloaded; try again.")
            raise self._full()
        deadline = deadline_ns
        if self.policy.deadline_ns is not None:
            own = now + self.policy.deadline_ns
            deadline = own if deadline_ns is None else min(own, deadline_ns)
        shapes = tuple([values.shape[1:] for values in tensors.values()])
        answer: asyncio.Future[Outputs] = self._loop.create_future()
        self._enqueue(Work(tensors, num_rows, shapes, answer, arrived_ns or now, deadline, is_background, observer))
        self._dispatch()
        if self._queue and self._sweep is None:
            self._sweep = self._loop.call_later(_SWEEP_SECONDS, self._sweep_queue)
        return answer

    async def drain(self) -> None:
        """Wait until nothing waits or runs."""
        while self.num_pending:
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        """Refuse what comes, answer what is there, and end the workers."""
        self._is_closed = True
        self._dispatch()  # nobody else will come: a request that waits for company need not
        await self.drain()
        for worker in self._workers:
            worker.stop()
        # Queue and workers name each other: let go, so that the model's memory needs no collector to be freed.
        self._workers.clear()
        self._idle.clear()

    def _has_room(self, *, is_background: bool) -> bool:
        """Tell whether one more request may wait; a background request gives its place in a full queue to another."""
        if len(self._queue) >= self.policy.max_queue and not is_background and self._queue[-1].is_background:
            expelled = self._queue.pop()
            if not expelled.answer.done():
                expelled.answer.set_exception(self._full())
        return len(self._queue) < self.policy.max_queue

    def _full(self) -> UnavailableError:
        return UnavailableError(
            f"the queue of model '{self._name}' is full ({self.policy.max_queue} requests wait); try again later."
        )

    def _enqueue(self, work: Work) -> None:
        position = len(self._queue)
        if not work.is_background:
            # Background requests are few, and always the last ones.
            while position and self._queue[position - 1].is_background:
                position -= 1
        self._queue.insert(position, work)

    def _dispatch(self) -> None:
        if not self._runs_on_loop:
            self._dispatch_now()
        elif not self._is_due:
            # Later in this turn of the event loop: what else it reads joins, since nothing runs meanwhile.
            self._is_due = True
            self._loop.call_soon(self._dispatch_now)

    def _dispatch_now(self) -> None:
        self._is_due = False
        while self._idle and self._queue:
            works = self._take()
            if works is None:
                return
            self._idle.pop().start(works)
            if self._is_due:
                return  # the event loop has other things to do between two runs

    def _take(self) -> list[Work] | None:
        """Return the requests of the next run, oldest first; None where there are none, or they should wait."""
        now = time.monotonic_ns()
        self._drop_unwanted(now)
        if not self._queue:
            return None
        if not self.policy.joins:
            return [self._queue.popleft()]
        first, chosen, left, num_rows = self._queue[0], [], deque[Work](), 0
        for work in self._queue:
            if work.shapes == first.shapes and num_rows + work.num_rows <= self.policy.max_rows:
                chosen.append(work)
                num_rows += work.num_rows
            else:
                left.append(work)
        wait_ns = first.arrived_ns + self.policy.delay_ns - now
        if num_rows < self.policy.max_rows and not left and wait_ns > 0 and not self._is_closed:
            self._wake_in(wait_ns)
            return None
        self._queue = left
        return chosen

    def _drop_unwanted(self, now: int) -> None:
        if not all([self._is_wanted(work, now) for work in self._queue]):  # every one is asked: asking refuses
            self._queue = deque(work for work in self._queue if not work.answer.done())

    def _is_wanted(self, work: Work, now: int) -> bool:
        """Tell whether anybody still waits for a request; refuse it where its deadline passed."""
        if work.answer.done():
            self._count_failure(work, "CANCELED", now)
            return False
        if work.deadline_ns is not None and work.deadline_ns <= now:
            self._count_failure(work, "REJECTED", now)
            waited_ms = (now - work.arrived_ns) / 1e6
            work.answer.set_exception(UnavailableError(f"the request expired after waiting {waited_ms:.0f} ms."))
            return False
        return True

    def _wake_in(self, wait_ns: int) -> None:
        if self._wake is None:
            self._wake = self._loop.call_later(wait_ns / 1e9, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self._dispatch()

    def _sweep_queue(self) -> None:
        self._drop_unwanted(time.monotonic_ns())
        self._sweep = self._loop.call_later(_SWEEP_SECONDS, self._sweep_queue) if self._queue else None

    def _deliver(self, worker: Worker | LoopWorker, executions: list[Execution]) -> None:
        self._idle.append(worker)
        # The next run starts before the answers of this one are written.
        self._dispatch()
        for execution in executions:
            self._answer(execution)

    def _answer(self, execution: Execution) -> None:
        now, num_answered = time.monotonic_ns(), 0
        if not isinstance(execution.results[0], ApsError):
            self._statistics.add_execution(execution.num_rows, execution.durations)
        for work, result in zip(execution.works, execution.results, strict=True):
            if work.observer is not None:
                work.observer(execution)
            if work.answer.done():
                self._count_failure(work, "CANCELED", now)
            elif isinstance(result, ApsError):
                self._count_failure(work, "BACKEND", now)
                work.answer.set_exception(serving_error_of(result))
            else:
                if not work.is_background:
                    num_answered += 1
                    self._statistics.add_success(
                        work.num_rows, execution.started_ns - work.arrived_ns, now - work.arrived_ns
                    )
                work.answer.set_result(result)
        if num_answered:
            self._statistics.add_parts(num_answered, execution.durations)

    def _count_failure(self, work: Work, reason: FailureReason, now: int) -> None:
        if not work.is_background:
            self._statistics.add_failure(reason, now - work.arrived_ns)
