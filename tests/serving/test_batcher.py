"""Which requests share a run, and what becomes of those that cannot, may not or need not be answered."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from aps_deploy.errors import ApsError
from aps_deploy.serving.batcher import Batcher, BatchPolicy
from aps_deploy.serving.errors import InvalidRequestError, ServingError, UnavailableError
from aps_deploy.serving.statistics import ModelStatistics


class Doubling:
    """An engine that doubles, remembers its batches, and waits where it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self.is_running = threading.Event()

    def run(self, tensors: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        values = tensors["x"]
        self.batches.append(values[:, 0].tolist())
        self.is_running.set()
        assert self.may_run.wait(30)
        if (values == 13).any():
            raise ApsError("thirteen is not computed.")
        if (values == 14).any():
            raise InvalidRequestError("fourteen is no number.")
        if (values == 15).any():
            raise ZeroDivisionError
        return [2 * values, np.arange(len(values))]


class Bench:
    """A batcher in front of doubling engines; `run` closes it at the end of the scenario."""

    made: ClassVar[list[Bench]] = []

    def __init__(self, *, num_engines: int = 1, runs_on_loop: bool = False, **policy: Any) -> None:
        self.made.append(self)
        self.engines = [Doubling() for _ in range(num_engines)]
        self.statistics = ModelStatistics()
        chosen = BatchPolicy(**{"max_rows": 4, **policy})
        self.batcher = Batcher(self.engines, chosen, self.statistics, runs_on_loop=runs_on_loop)

    @property
    def engine(self) -> Doubling:
        return self.engines[0]

    def submit(self, *numbers: float, width: int = 1, **arguments: Any) -> asyncio.Future[list[npt.NDArray[Any]]]:
        values = np.repeat(np.array(numbers, np.float32)[:, None], width, axis=1)
        return self.batcher.submit({"x": values}, len(values), **arguments)

    async def occupy(self) -> asyncio.Future[list[npt.NDArray[Any]]]:
        """Start a run that lasts until the engine is released."""
        self.engine.may_run.clear()
        first = self.submit(0)
        await asyncio.to_thread(self.engine.is_running.wait, 30)
        return first


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        Bench.made.clear()
        try:
            await asyncio.wait_for(scenario(), 60)
        finally:
            for bench in Bench.made:
                for engine in bench.engines:
                    engine.may_run.set()
                await asyncio.wait_for(bench.batcher.close(), 60)

    asyncio.run(whole())


def numbers_of(answers: list[Any]) -> list[list[float]]:
    return [answer[0][:, 0].tolist() for answer in answers]


def test_what_queued_while_the_worker_was_busy_shares_a_run() -> None:
    async def scenario() -> None:
        bench = Bench()
        first = await bench.occupy()
        rest = [bench.submit(1), bench.submit(2, 3), bench.submit(4), bench.submit(5)]
        bench.engine.may_run.set()
        answers = await asyncio.gather(first, *rest)
        assert bench.engine.batches == [[0], [1, 2, 3, 4], [5]]
        assert numbers_of(answers) == [[0], [2], [4, 6], [8], [10]]
        assert answers[2][1].tolist() == [1, 2]  # rows of an output that is no float stay with their request
        assert bench.statistics.success.count == 5
        assert bench.statistics.inference_count == 6
        assert bench.statistics.execution_count == 3
        assert {size: totals["compute_infer"].count for size, totals in bench.statistics.batches.items()} == {
            1: 2,
            4: 1,
        }

    run(scenario)


def test_other_shapes_wait_for_their_own_run() -> None:
    async def scenario() -> None:
        bench = Bench()
        first = await bench.occupy()
        rest = [bench.submit(1), bench.submit(2, width=3), bench.submit(3)]
        bench.engine.may_run.set()
        assert numbers_of(await asyncio.gather(first, *rest)) == [[0], [2], [4], [6]]
        assert bench.engine.batches == [[0], [1, 3], [2]]

    run(scenario)


def test_nothing_is_joined_where_that_would_change_answers() -> None:
    async def scenario() -> None:
        bench = Bench(joins=False)
        first = await bench.occupy()
        rest = [bench.submit(1), bench.submit(2, 3)]
        bench.engine.may_run.set()
        await asyncio.gather(first, *rest)
        assert bench.engine.batches == [[0], [1], [2, 3]]

    run(scenario)


def test_a_delay_gathers_requests_and_a_full_batch_does_not_wait() -> None:
    async def scenario() -> None:
        bench = Bench(delay_ns=50_000_000)
        started = time.monotonic()
        await asyncio.gather(bench.submit(1), bench.submit(2))
        assert time.monotonic() - started >= 0.05
        assert bench.engine.batches == [[1, 2]]
        slow = Bench(delay_ns=3_600_000_000_000)
        await asyncio.gather(*(slow.submit(number) for number in range(4)))
        assert slow.engine.batches == [[0, 1, 2, 3]]

    run(scenario)


def test_a_full_queue_refuses() -> None:
    async def scenario() -> None:
        bench = Bench(max_queue=2)
        first = await bench.occupy()
        rest = [bench.submit(1), bench.submit(2)]
        with pytest.raises(UnavailableError, match=r"queue of model 'model' is full \(2 requests wait\)") as caught:
            bench.submit(3)
        assert caught.value.http_status == 503 and caught.value.retry_after_seconds is not None
        bench.engine.may_run.set()
        assert numbers_of(await asyncio.gather(first, *rest)) == [[0], [2], [4]]
        assert bench.statistics.failures["REJECTED"] == 1

    run(scenario)


@pytest.mark.parametrize("of_policy", [True, False])
def test_a_deadline_is_kept_while_the_worker_is_busy(of_policy: bool) -> None:
    async def scenario() -> None:
        bench = Bench(deadline_ns=30_000_000 if of_policy else None)
        first = await bench.occupy()
        late = bench.submit(1, **({} if of_policy else {"deadline_ns": time.monotonic_ns() + 30_000_000}))
        with pytest.raises(UnavailableError, match="expired after waiting"):
            await late  # although the worker is still busy
        bench.engine.may_run.set()
        await first  # what runs is answered, however late
        await bench.batcher.drain()
        assert bench.engine.batches == [[0]]
        assert bench.statistics.failures["REJECTED"] == 1

    run(scenario)


def test_the_work_of_a_client_that_left_is_dropped() -> None:
    async def scenario() -> None:
        bench = Bench()
        first = await bench.occupy()
        gone, kept = bench.submit(1), bench.submit(2)
        gone.cancel()
        first.cancel()
        bench.engine.may_run.set()
        assert numbers_of([await kept]) == [[4]]
        assert bench.engine.batches == [[0], [2]]
        assert bench.statistics.failures["CANCELED"] == 2
        assert bench.statistics.success.count == 1

    run(scenario)


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (13, ServingError, "thirteen"),
        (14, InvalidRequestError, "fourteen"),
        (15, ServingError, "the server's log says more"),
    ],
)
def test_a_request_that_fails_leaves_its_neighbours_alone(number: int, kind: type[ServingError], words: str) -> None:
    async def scenario() -> None:
        bench = Bench()
        first = await bench.occupy()
        good, bad, other = bench.submit(1), bench.submit(number), bench.submit(2)
        bench.engine.may_run.set()
        assert numbers_of([await first, await good, await other]) == [[0], [2], [4]]
        with pytest.raises(kind, match=words) as caught:
            await bad
        assert type(caught.value) is kind
        assert bench.statistics.failures["BACKEND"] == 1
        # The worker lives on.
        assert numbers_of([await bench.submit(5)]) == [[10]]

    run(scenario)


def test_instances_run_side_by_side() -> None:
    async def scenario() -> None:
        bench = Bench(num_engines=2, joins=False)
        for engine in bench.engines:
            engine.may_run.clear()
        answers = [bench.submit(1), bench.submit(2)]
        for engine in bench.engines:
            assert await asyncio.to_thread(engine.is_running.wait, 30)
            engine.may_run.set()
        assert numbers_of(await asyncio.gather(*answers)) == [[2], [4]]

    run(scenario)


def test_closing_answers_what_was_accepted_and_refuses_the_rest() -> None:
    async def scenario() -> None:
        bench = Bench()
        first, waiting = await bench.occupy(), bench.submit(1)
        closing = asyncio.create_task(bench.batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="being unloaded"):
            bench.submit(2)
        assert not closing.done()
        bench.engine.may_run.set()
        assert numbers_of([await first, await waiting]) == [[0], [2]]
        await closing

    run(scenario)


def test_closing_ends_the_wait_for_company() -> None:
    async def scenario() -> None:
        bench = Bench(delay_ns=3_600_000_000_000)
        waiting = bench.submit(1)
        await bench.batcher.close()
        assert numbers_of([await waiting]) == [[2]]

    run(scenario)


def test_background_requests_go_last_fill_what_is_left_and_are_in_no_count_of_requests() -> None:
    async def scenario() -> None:
        bench = Bench()
        first = await bench.occupy()
        later = [bench.submit(number, is_background=True) for number in (7, 8)]
        asked = [bench.submit(1), bench.submit(2, 3)]
        bench.engine.may_run.set()
        answers = await asyncio.gather(first, *asked, *later)
        assert bench.engine.batches == [[0], [1, 2, 3, 7], [8]]
        assert numbers_of(answers) == [[0], [2], [4, 6], [14], [16]]
        assert bench.statistics.success.count == 3 and bench.statistics.inference_count == 4
        assert bench.statistics.execution_count == 3

    run(scenario)


def test_a_background_request_gives_its_place_in_a_full_queue() -> None:
    async def scenario() -> None:
        bench = Bench(max_queue=2)
        first = await bench.occupy()
        background = bench.submit(7, is_background=True)
        second = bench.submit(1)
        with pytest.raises(UnavailableError, match="is full"):
            bench.submit(8, is_background=True)
        third = bench.submit(2)
        with pytest.raises(UnavailableError, match="is full"):
            await background
        assert bench.statistics.fail.count == 0
        with pytest.raises(UnavailableError, match="is full"):
            bench.submit(3)
        assert bench.statistics.failures["REJECTED"] == 1
        bench.engine.may_run.set()
        assert numbers_of(await asyncio.gather(first, second, third)) == [[0], [2], [4]]

    run(scenario)


def test_on_the_loop_what_came_in_one_turn_shares_a_run() -> None:
    async def scenario() -> None:
        bench = Bench(runs_on_loop=True)
        answers = [bench.submit(number) for number in range(6)]
        left = bench.submit(6)
        left.cancel()
        assert bench.engine.batches == [] and bench.batcher.num_pending == 7
        assert numbers_of(await asyncio.gather(*answers)) == [[2.0 * number] for number in range(6)]
        assert bench.engine.batches == [[0, 1, 2, 3], [4, 5]]
        # Between two runs the event loop does other things.
        later = list[int]()
        rest = [bench.submit(number) for number in range(8)]
        asyncio.get_running_loop().call_soon(lambda: later.append(len(bench.engine.batches)))
        await asyncio.gather(*rest)
        assert later == [3] and len(bench.engine.batches) == 4
        await bench.batcher.close()
        assert bench.statistics.success.count == 14 and bench.statistics.failures["CANCELED"] == 1

    run(scenario)


def test_on_the_loop_a_delay_gathers_and_a_mistake_stays_its_own() -> None:
    async def scenario() -> None:
        bench = Bench(runs_on_loop=True, delay_ns=20_000_000)
        answers = [bench.submit(1), bench.submit(13)]
        await asyncio.sleep(0)
        assert bench.engine.batches == []
        answers += [bench.submit(2), bench.submit(14)]
        found = await asyncio.gather(*answers, return_exceptions=True)
        assert [type(value).__name__ for value in found] == ["list", "ServingError", "list", "InvalidRequestError"]
        assert bench.engine.batches == [[1, 13, 2, 14], [1], [13], [2], [14]]
        closing = asyncio.create_task(bench.batcher.close())
        await closing
        with pytest.raises(UnavailableError, match="unloaded"):
            bench.submit(1)

    run(scenario)
