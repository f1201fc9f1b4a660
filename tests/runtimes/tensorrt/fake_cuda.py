"""PyTorch's CUDA streams and graphs on a machine without a GPU: memory is the host's, streams do everything at once.

A graph under capture records what the fake engine would do and does none of it, as the real one; a replay does it. What
only a GPU can show, above all the order of work on several streams, is not tested with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from aps_deploy.runtimes import tensorrt_session

REAL_CHECK_PLACE = tensorrt_session._check_place


class FakeStream:
    """A stream with a handle of its own; all is done at once, and whom it waited for is kept."""

    count = 0

    def __init__(self) -> None:
        FakeStream.count += 1
        self.cuda_stream = 1000 + FakeStream.count
        self.waited_for: list[FakeStream] = []
        self.num_synchronised = 0

    def synchronize(self) -> None:
        self.num_synchronised += 1

    def wait_stream(self, other: FakeStream) -> None:
        self.waited_for.append(other)


class FakeEvent:
    """An event that tells the time of a clock which stands still unless a test moves it: the GPU's."""

    now_ms = 0.0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing, "an event without timing tells none"
        self.recorded: tuple[FakeStream, float] | None = None
        self.is_awaited = False

    def record(self, stream: FakeStream) -> None:
        assert self.recorded is None, "recorded twice"
        self.recorded = stream, FakeEvent.now_ms

    def synchronize(self) -> None:
        self.is_awaited = True

    def elapsed_time(self, end: FakeEvent) -> float:
        # As PyTorch: both on one device, and an error where the second has not happened yet.
        assert self.recorded is not None and end.recorded is not None
        assert self.recorded[0] is end.recorded[0]
        return end.recorded[1] - self.recorded[1]


CALLER = FakeStream()
"""The current stream of whoever calls a session."""


class FakeGraph:
    """What was recorded, in order."""

    capturing: FakeGraph | None = None
    num_replays = 0

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []

    def replay(self) -> None:
        """Do what was recorded."""
        FakeGraph.num_replays += 1
        for step in self.steps:
            step()


@contextlib.contextmanager
def _capture(graph: FakeGraph, *, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
    assert capture_error_mode == "thread_local"
    FakeGraph.capturing = graph
    try:
        yield
    finally:
        FakeGraph.capturing = None


def install_fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the fakes in PyTorch's place until the test is over."""
    empty = torch.empty

    def on_host(*shape: Any, device: Any = None, pin_memory: bool = False, **others: Any) -> torch.Tensor:
        if device != "cuda" and not pin_memory:
            return empty(*shape, device=device, **others)
        # Filled, so that a value nobody wrote is seen.
        return empty(*shape, **others).fill_(77)

    FakeGraph.num_replays = 0
    monkeypatch.setattr(torch, "empty", on_host)
    # Not torch.cuda.is_available: other code would take it at its word.
    monkeypatch.setattr("aps_deploy.runtimes.tensorrt_session._check_torch", lambda source: None)
    monkeypatch.setattr("aps_deploy.runtimes.tensorrt_session._check_place", lambda images, source: None)
    monkeypatch.setattr("aps_deploy.runtimes.device_span._can_record", lambda: True)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: CALLER)
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", _capture)
