"""What a served model did so far: the counts and times behind the statistics extension and `/metrics`.

Only the event loop's thread writes and reads them, so nothing is locked.
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from typing import Any, Literal

FailureReason = Literal["REJECTED", "CANCELED", "BACKEND", "OTHER"]
"""Triton's reasons of a failed request: refused or expired in the queue, cancelled, failed in the run, others."""


@dataclasses.dataclass
class Total:
    """How often something happened and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, duration_ns: int, count: int = 1) -> None:
        """Count ``count`` more of ``duration_ns`` nanoseconds each."""
        self.count += count
        self.ns += duration_ns * count

    def to_dict(self) -> dict[str, int]:
        """Return Triton's form of it."""
        return {"count": self.count, "ns": self.ns}


@dataclasses.dataclass(frozen=True)
class Durations:
    """How long the parts of one execution took, in nanoseconds.

    Attributes:
        compute_input: putting the requests' tensors together.
        compute_infer: the run.
        compute_output: taking the outputs apart.
    """

    compute_input: int
    compute_infer: int
    compute_output: int


_PARTS = ("compute_input", "compute_infer", "compute_output")


def _part_totals() -> dict[str, Total]:
    return {part: Total() for part in _PARTS}


@dataclasses.dataclass
class ModelStatistics:
    """The counts and times of one version of one model.

    Attributes:
        success: answered requests, from arrival to answer.
        failures: how many requests failed, by reason.
        fail: failed requests, from arrival to refusal.
        queue: how long answered requests waited.
        parts: how long answered requests spent in each part of their execution.
        inference_count: images answered.
        execution_count: runs.
        last_inference_ms: when the last answer was given, in milliseconds since 1970.
        batches: parts of the executions, by number of images.
    """

    success: Total = dataclasses.field(default_factory=Total)
    fail: Total = dataclasses.field(default_factory=Total)
    failures: dict[FailureReason, int] = dataclasses.field(
        default_factory=lambda: {"REJECTED": 0, "CANCELED": 0, "BACKEND": 0, "OTHER": 0}
    )
    queue: Total = dataclasses.field(default_factory=Total)
    parts: dict[str, Total] = dataclasses.field(default_factory=_part_totals)
    inference_count: int = 0
    execution_count: int = 0
    last_inference_ms: int = 0
    batches: dict[int, dict[str, Total]] = dataclasses.field(default_factory=lambda: defaultdict(_part_totals))

    def add_execution(self, num_rows: int, durations: Durations) -> None:
        """Count one run."""
        self.execution_count += 1
        totals = self.batches[num_rows]
        for part in _PARTS:
            totals[part].add(getattr(durations, part))

    def add_success(self, num_rows: int, queue_ns: int, total_ns: int, durations: Durations) -> None:
        """Count one answered request."""
        self.success.add(total_ns)
        self.queue.add(queue_ns)
        self.inference_count += num_rows
        self.last_inference_ms = time.time_ns() // 1_000_000
        for part in _PARTS:
            self.parts[part].add(getattr(durations, part))

    def add_failure(self, reason: FailureReason, total_ns: int = 0) -> None:
        """Count one request that got no answer."""
        self.failures[reason] += 1
        self.fail.add(total_ns)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of Triton's ``ModelStatistics`` message."""
        unused = Total().to_dict()
        return {
            "last_inference": self.last_inference_ms,
            "inference_count": self.inference_count,
            "execution_count": self.execution_count,
            "inference_stats": {
                "success": self.success.to_dict(),
                "fail": self.fail.to_dict(),
                "queue": self.queue.to_dict(),
                **{part: total.to_dict() for part, total in self.parts.items()},
                "cache_hit": unused,
                "cache_miss": unused,
            },
            # Of models that answer more than once, and of devices: Triton shows them empty, too.
            "response_stats": {},
            "memory_usage": [],
            "batch_stats": [
                {"batch_size": size, **{part: total.to_dict() for part, total in totals.items()}}
                for size, totals in sorted(self.batches.items())
            ],
        }
