"""Sessions of every runtime of a CPU, closed while other threads run images on them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from aps_deploy.errors import ApsError
from aps_deploy.models import create_model
from aps_deploy.runtimes.gate import Gate
from aps_deploy.runtimes.onnx_reference_session import OnnxReferenceSession
from aps_deploy.runtimes.onnxruntime_session import OnnxRuntimeSession
from aps_deploy.runtimes.session import BaseSession
from aps_deploy.runtimes.torch_session import TorchSession
from tests.concurrency import WAIT_S, Caller, wait_until
from tests.runtimes import graphs

CLOSED = "is closed; open it again with open_session"
IMAGES = graphs.images(1, 16, 16)


def _torch_session() -> BaseSession:
    return TorchSession(create_model("resnet20_aps1"), device="cpu")


def _onnx_session() -> BaseSession:
    return OnnxRuntimeSession(graphs.classifier().SerializeToString())


def _reference_session() -> BaseSession:
    return OnnxReferenceSession(graphs.classifier())


@pytest.mark.parametrize(
    "opened",
    [_torch_session, _onnx_session, _reference_session],
    ids=["torch", "onnxruntime", "onnx-reference"],
)
def test_closing_waits_for_the_runs_under_way(
    opened: Callable[[], BaseSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened()
    expected = session.run(IMAGES)["logits"]
    inside, may_go = threading.Event(), threading.Event()
    execute = session._execute

    def lingering(images: np.ndarray) -> list[np.ndarray]:
        inside.set()
        assert may_go.wait(WAIT_S)
        return execute(images)

    monkeypatch.setattr(session, "_execute", lingering)
    running = Caller(lambda: session.run(IMAGES)["logits"])
    assert inside.wait(WAIT_S)
    closing = [Caller(session.close) for _ in range(2)]
    wait_until(lambda: "(closed)" in repr(session))
    with pytest.raises(ApsError, match=CLOSED):
        session.run(IMAGES)
    assert running.is_busy and all(each.is_busy for each in closing)
    may_go.set()
    np.testing.assert_array_equal(running.end(), expected)
    assert [each.end() for each in closing] == [None, None]


def test_a_run_that_fails_leaves_the_gate() -> None:
    gate = Gate()
    with pytest.raises(ZeroDivisionError), gate.enter() as is_in:
        assert is_in
        1 / 0  # noqa: B018
    assert Caller(gate.close).end() is True


def test_only_the_first_closes_and_nobody_is_let_in_afterwards() -> None:
    gate = Gate()
    assert [gate.is_closed, gate.close(), gate.close(), gate.is_closed] == [False, True, False, True]
    with gate.enter() as is_in:
        assert not is_in
