"""How long a run took on the GPU: CUDA events on the stream that its work was queued on.

A session marks what it queues (copies in, the network, copies out) with `device_work`, which costs nothing unless
somebody measures with `measured_span`. The events tell when the GPU itself began and ended; they are read after the
run, so that waiting for them is no part of it.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

from aps_deploy.runtimes.availability import Device


class DeviceSpan:
    """The stretches of GPU work of one run: one for each piece that a batch was cut into."""

    def __init__(self) -> None:
        self._pairs: list[tuple[Any, Any]] = []

    def add(self, start: Any, end: Any) -> None:
        """Keep the two recorded events of a stretch."""
        self._pairs.append((start, end))

    def seconds(self) -> float | None:
        """Return the seconds of all stretches, waiting for the last; None where nothing was queued on a GPU."""
        if not self._pairs:
            return None
        self._pairs[-1][1].synchronize()
        # Event.elapsed_time is in milliseconds, to about half a microsecond.
        return sum(float(start.elapsed_time(end)) for start, end in self._pairs) / 1e3


_MEASURED: contextvars.ContextVar[DeviceSpan | None] = contextvars.ContextVar("_MEASURED", default=None)


@contextlib.contextmanager
def measured_span() -> Iterator[DeviceSpan]:
    """Measure the GPU work of what this thread runs in the block; read `DeviceSpan.seconds` after it."""
    span = DeviceSpan()
    token = _MEASURED.set(span)
    try:
        yield span
    finally:
        _MEASURED.reset(token)


@contextlib.contextmanager
def device_work(device: Device, stream: Any = None) -> Iterator[None]:
    """Mark what is queued in the block as the GPU work of a run; does nothing on a CPU, or where nobody measures.

    Args:
        device: where the session runs.
        stream: the CUDA stream of the work; None takes PyTorch's current one, which also fits a runtime with a stream
            of its own whose call returns only when its work is done.
    """
    span = _MEASURED.get()
    if span is None or device != "cuda" or not _can_record():
        yield
        return
    import torch

    where = torch.cuda.current_stream() if stream is None else stream
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record(where)
    yield
    end.record(where)
    span.add(start, end)


def _can_record() -> bool:
    # ONNX Runtime may run on a GPU that a PyTorch for CPUs does not see; its runs are then timed by the host.
    import torch

    return torch.cuda.is_available()
