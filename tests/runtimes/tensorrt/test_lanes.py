"""Sessions that are closed while other threads run images, against the stand-in for TensorRT and CUDA."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aps_deploy.errors import ApsError
from aps_deploy.runtimes.tensorrt.lanes import Lanes
from aps_deploy.runtimes.tensorrt_session import TensorRtSession
from tests.concurrency import WAIT_S, Caller, wait_until
from tests.export.engines.toys import toy
from tests.runtimes.tensorrt.fake_engine import FakeContext, fake_toolkit, write_plan

IMAGES = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
CLOSED = "is closed; open it again with open_session"


@pytest.fixture
def plan(tmp_path: Path, fake_cuda: None) -> Path:
    return write_plan(tmp_path / "toy.plan", toy())


def _session(plan: Path, num_contexts: int = 1) -> TensorRtSession:
    return TensorRtSession(plan, num_contexts=num_contexts, toolkit=fake_toolkit())


def test_closing_waits_for_who_has_a_lane_and_who_waits_for_one(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = _session(plan)
    expected = session.run(IMAGES)["logits"]
    inside, may_go, asks = threading.Event(), threading.Event(), threading.Event()
    compute, lend = FakeContext.compute, Lanes.lend

    def lingering(context: FakeContext) -> None:
        inside.set()
        assert may_go.wait(WAIT_S)
        compute(context)

    def noted(lanes: Lanes) -> contextlib.AbstractContextManager[Any]:
        asks.set()
        return lend(lanes)

    monkeypatch.setattr(FakeContext, "compute", lingering)
    running = Caller(lambda: session.run(IMAGES)["logits"])
    assert inside.wait(WAIT_S)
    monkeypatch.setattr(Lanes, "lend", noted)
    waiting = Caller(lambda: session.run(IMAGES)["logits"])
    assert asks.wait(WAIT_S)
    closing = Caller(session.close)
    wait_until(lambda: "(closed)" in repr(session))
    with pytest.raises(ApsError, match=CLOSED):
        session.run(IMAGES)
    assert running.is_busy and waiting.is_busy and closing.is_busy
    may_go.set()
    np.testing.assert_array_equal(running.end(), expected)
    np.testing.assert_array_equal(waiting.end(), expected)
    assert closing.end() is None


def test_threads_that_are_running_get_their_answers_or_the_sentence(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The stand-in records the graphs of one thread at a time only.
    monkeypatch.setattr(FakeContext, "is_stream_capturable", lambda self, stream: False, raising=False)
    session = _session(plan, num_contexts=3)
    expected = session.run(IMAGES)["logits"]
    some = threading.Semaphore(0)

    def run_until_closed() -> Iterator[bool]:
        while True:
            yield bool(np.array_equal(session.run(IMAGES)["logits"], expected))
            some.release()

    callers = [Caller(lambda: all(run_until_closed())) for _ in range(8)]
    for _ in range(50):
        assert some.acquire(timeout=WAIT_S)
    closing = [Caller(session.close) for _ in range(2)]
    for caller in callers:
        assert isinstance(caller.end(), ApsError) and CLOSED in str(caller.result)
    assert [each.end() for each in closing] == [None, None]


def test_what_the_lanes_held_is_gone_when_they_are_closed(plan: Path) -> None:
    session = _session(plan)
    session.run(IMAGES)
    with session._lanes.lend() as lane:
        assert len(lane._runners) == 1
    session.close()
    assert len(lane._runners) == 0  # although this test still holds the lane
