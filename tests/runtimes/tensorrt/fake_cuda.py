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


class FakeStream:
    """A stream with a handle of its own."""

    count = 0

    def __init__(self) -> None:
        FakeStream.count += 1
        self.cuda_stream = 1000 + FakeStream.count

    def synchronize(self) -> None:
        """Do nothing: all is done already."""


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
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", _capture)
