"""What nobody asked for is not there: other addresses, details of a failure, more than the limits, an endless end."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from aps_deploy.serving.model import ServedModel
from aps_deploy.serving.settings import ServeSettings
from tests.runtimes import graphs
from tests.serving.support import CLIENTS, Running, running, starting, tensor
from tests.serving.test_classify import bomb

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]})
INFER = "/v2/models/grown/infer"
DETAIL = "the detail that stays in the log"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no second loopback address")
def test_no_address_but_the_loopback_is_listened_on(server: Running, tmp_path: Path) -> None:
    assert ServeSettings(tmp_path).host == "127.0.0.1"
    for port in (server.where.port, server.where.grpc_port):
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
        # A socket bound to every address would answer on this one, too.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=30)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(*arguments: Any, **named: Any) -> Any:
        raise ZeroDivisionError(DETAIL)

    monkeypatch.setattr(ServedModel, "submit", submit)


def tells_nothing(words: str) -> bool:
    return "internal error" in words and not any(part in words for part in (DETAIL, "Traceback", "Zero", ".py"))


@pytest.mark.usefixtures("broken")
def test_a_bug_is_told_to_the_log_and_not_to_the_client(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    status, headers, body = server.request("POST", INFER, BODY, {"X-Request-Id": "mine"})
    assert status == 500 and list(json.loads(body)) == ["error"] and tells_nothing(body.decode())
    assert "request ID mine" in body.decode() and headers["x-request-id"] == "mine"
    tensors = [tensor(CLIENTS["grpc"], "x", np.ones((1, 2), np.float32), "FP32")]
    errors: list[Any] = []
    with server.client("grpc") as client:
        with pytest.raises(InferenceServerException) as caught:
            client.infer("grown", tensors)
        assert caught.value.status() == "StatusCode.INTERNAL" and tells_nothing(str(caught.value))
        client.start_stream(lambda result, error: errors.append(error))
        client.async_stream_infer("grown", tensors)
        client.stop_stream()
    assert len(errors) == 1 and tells_nothing(str(errors[0]))
    assert sum(DETAIL in (record.exc_text or "") for record in caplog.records) == 3
    assert all(record.levelno == logging.ERROR for record in caplog.records if record.exc_info)


def test_grpc_has_the_limit_of_elements_too(repository: Path) -> None:
    images = graphs.images(3)
    with running(repository, max_elements=500) as server, server.client("grpc") as client:
        with pytest.raises(InferenceServerException, match="at most 500") as caught:
            client.infer("tiny", [tensor(CLIENTS["grpc"], "images", images, "FP32")])
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        assert client.infer("tiny", [tensor(CLIENTS["grpc"], "images", images[:2], "FP32")]) is not None


@pytest.mark.parametrize("route", ["classify", "prepare"])
def test_every_route_for_pictures_counts_pixels_before_it_decodes(server: Running, route: str) -> None:
    status, _, body = server.request("POST", f"/v1/models/tiny/{route}", bomb())
    assert status == 415 and "too large to decode" in json.loads(body)["error"]


def test_asked_twice_the_server_waits_for_nobody(repository: Path) -> None:
    """A request that waits for company for an hour, and a drain that would wait as long."""
    limits = {"batch_delay_ms": 3_600_000.0, "deadline_ms": None, "drain_s": 3600.0}
    with starting(repository / "tiny" / "1" / "model.onnx", **limits) as (server, thread):
        outcome: list[object] = []

        def ask() -> None:
            entry = {"name": "images", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0] * 192}
            try:
                outcome.append(server.request("POST", "/v2/models/model/infer", json.dumps({"inputs": [entry]}))[0])
            except (OSError, http.client.HTTPException):
                outcome.append("cut")

        client = threading.Thread(target=ask)
        client.start()
        while 'request_count{model="model",version="1"} 1' not in server.request("GET", "/metrics")[2].decode():
            time.sleep(0.002)
        server.stopping.ask()
        server.stopping.ask()
        thread.join(60)
        assert not thread.is_alive()
        client.join(60)
        assert outcome in ([200], ["cut"])  # nothing is waited for, and what can still be answered is
