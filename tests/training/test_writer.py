"""Jobs run in order, one at a time, and a failure is told once."""

from __future__ import annotations

import threading

import pytest

from aps_deploy.errors import ApsError
from aps_deploy.training.writer import BackgroundWriter


def test_jobs_run_beside_the_caller_in_their_order() -> None:
    done: list[int] = []
    gate = threading.Event()
    with BackgroundWriter() as writer:
        assert not writer.is_busy
        writer.submit(lambda: (gate.wait(30), done.append(1)))
        assert writer.is_busy and done == []
        threading.Timer(0.05, gate.set).start()
        writer.submit(lambda: done.append(2))
        assert done[0] == 1, "the second waited for the first"
    assert done == [1, 2] and not writer.is_busy


def failing() -> None:
    raise ApsError("the disk is full")


def test_a_failure_is_raised_once_and_stops_the_next_job() -> None:
    ran: list[int] = []
    writer = BackgroundWriter()
    writer.submit(failing)
    with pytest.raises(ApsError, match="the disk is full"):
        writer.submit(lambda: ran.append(1))
    writer.wait()
    assert ran == [] and not writer.has_failed
    with pytest.raises(ApsError, match="full"), BackgroundWriter() as other:
        other.submit(failing)


def test_another_error_is_not_hidden_by_a_failed_job() -> None:
    with pytest.raises(ValueError, match="first"), BackgroundWriter() as writer:
        writer.submit(failing)
        raise ValueError("first")
