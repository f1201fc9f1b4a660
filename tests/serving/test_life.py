"""From the first port to the last answer: what is said while models load, and what a stop leaves unanswered."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from aps_deploy.errors import InputError
from aps_deploy.serving import registry as registry_module
from aps_deploy.serving.model import LoadedModel, load_model
from aps_deploy.serving.repository import Repository
from aps_deploy.serving.running import run_server
from aps_deploy.serving.settings import ServeSettings
from tests.serving.ports import free_ports
from tests.serving.support import CLIENTS, Running, running, starting, tensor

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]})
INFER = "/v2/models/grown/infer"


def test_alive_but_not_ready_while_models_load(own_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,), may_load = free_ports(1), threading.Event()

    def load_slowly(*arguments: Any) -> LoadedModel:
        assert may_load.wait(60)
        return load_model(*arguments)

    monkeypatch.setattr(registry_module, "load_model", load_slowly)
    seen: dict[str, int | str] = {}

    def look() -> None:
        deadline = time.monotonic() + 60
        while "live" not in seen and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                for name, path in (("live", "/v2/health/live"), ("ready", "/v2/health/ready"), ("infer", INFER)):
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                    connection.request("POST" if name == "infer" else "GET", path, BODY if name == "infer" else None)
                    response = connection.getresponse()
                    seen[name], seen["words"] = response.status, response.read().decode()
                    connection.close()
            time.sleep(0.01)
        may_load.set()

    looking = threading.Thread(target=look)
    looking.start()
    with running(own_repository, port=port) as server:
        looking.join()
        assert (seen["live"], seen["ready"], seen["infer"]) == (200, 400, 503)
        assert "is loading" in str(seen["words"])
        assert server.request("GET", "/v2/health/ready")[0] == 200


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_a_signal_while_models_load_leaves_out_the_rest(
    own_repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aps_deploy.serving")
    begun, announced = list[str](), list[object]()

    def load_and_be_killed(name: str, *arguments: Any) -> LoadedModel:
        begun.append(name)
        if len(begun) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return load_model(name, *arguments)

    monkeypatch.setattr(registry_module, "load_model", load_and_be_killed)
    settings = ServeSettings(own_repository, port=0, grpc_port=0, threads=1, drain_delay_s=0.0)
    run_server(settings, started=announced.append)
    assert len(begun) <= 2 < len(Repository(own_repository).names()) and announced == []
    assert caplog.messages[-1] == "stopped" and "listening" not in caplog.text


@pytest.mark.parametrize("option", ["port", "grpc_port"])
def test_a_port_in_use(repository: Path, server: Running, option: str) -> None:
    taken = getattr(server.where, option)
    with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{taken}"), running(repository, **{option: taken}):
        pass


def test_stopping_loses_no_accepted_request(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Clients keep asking while the server stops: whatever it began to read, it answers."""
    caplog.set_level(logging.INFO, "aps_deploy.serving")
    answered, unread = list[int](), list[OSError | http.client.HTTPException]()
    stopped = threading.Event()

    def ask(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while not stopped.is_set():
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                return
            try:
                connection.request("POST", INFER, BODY)
                response = connection.getresponse()
                response.read()
                answered.append(response.status)
            except (OSError, http.client.HTTPException) as error:
                unread.append(error)
                connection.close()

    with starting(repository, drain_delay_s=0.3, access_log=True) as (server, thread):
        clients = [threading.Thread(target=ask, args=(server.where.port,)) for _ in range(4)]
        for client in clients:
            client.start()
        while len(answered) < 40:
            time.sleep(0.005)
        server.stopping.ask(with_delay=True)
        # Readiness goes at once, while the ports are still open.
        status = 200
        while status == 200:
            status = server.request("GET", "/v2/health/ready")[0]
        assert status == 400
        _, headers, _ = server.request("GET", "/v2/health/live")
        assert headers["connection"] == "close"
        thread.join(60)
        stopped.set()
        for client in clients:
            client.join(60)
    assert set(answered) == {200}
    # A connection that the kernel made while the port closed is reset by it: the server never saw those requests.
    logged = [record.fields for record in caplog.records if hasattr(record, "fields")]
    requests = [fields for fields in logged if fields["request"] == f"POST {INFER}"]
    assert len(requests) == len(answered)
    assert {fields["status"] for fields in requests} == {200}
    assert len(unread) <= len(clients)


def test_a_request_in_the_queue_is_answered_after_the_stop(repository: Path) -> None:
    # The delay keeps the requests in the queue; with the stop nothing else would make them leave it.
    with starting(repository, batch_delay_ms=400.0) as (server, thread):
        values = np.ones((1, 3, 8, 8), np.float32)
        found: dict[str, Any] = {}

        def ask(transport: str) -> None:
            with server.client(transport) as client:
                result = client.infer("tiny", [tensor(CLIENTS[transport], "images", values, "FP32")])
                found[transport] = result.as_numpy("logits").shape

        clients = [threading.Thread(target=ask, args=(transport,)) for transport in CLIENTS]
        for client in clients:
            client.start()
        while 'request_count{model="tiny",version="1"} 2' not in server.request("GET", "/metrics")[2].decode():
            time.sleep(0.002)
        server.stopping.ask()
        thread.join(60)
        for client in clients:
            client.join(60)
        assert found == {"http": (1, 5), "grpc": (1, 5)}


def test_a_client_that_leaves_is_forgotten(repository: Path) -> None:
    with running(repository, batch_delay_ms=60_000.0) as server:
        body = json.dumps(
            {"inputs": [{"name": "images", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0] * 192}]}
        )
        connection = http.client.HTTPConnection("127.0.0.1", server.where.port)
        connection.request("POST", "/v2/models/tiny/infer", body)
        values = np.zeros((1, 3, 8, 8), np.float32)
        with server.client("grpc") as client:
            call = client.async_infer(
                "tiny", [tensor(CLIENTS["grpc"], "images", values, "FP32")], lambda result, error: None
            )
            pending = 'nv_inference_pending_request_count{model="tiny",version="1"} '
            while pending + "2" not in server.request("GET", "/metrics")[2].decode():
                time.sleep(0.002)
            connection.close()
            call.cancel()
        while pending + "0" not in (page := server.request("GET", "/metrics")[2].decode()):
            time.sleep(0.002)
        assert 'nv_inference_request_failure{model="tiny",version="1",reason="CANCELED"} 2' in page


def test_a_full_queue_and_a_passed_deadline_are_refused_on_both_protocols(repository: Path) -> None:
    values = np.zeros((1, 3, 8, 8), np.float32)
    entry = {"name": "images", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0] * 192}
    # The delay keeps the first request in the queue for good.
    with running(repository, batch_delay_ms=60_000.0, max_queue=1) as server:
        expiring = {"inputs": [entry], "parameters": {"timeout": 30_000}}
        status, answer = server.json("POST", "/v2/models/tiny/infer", expiring)
        assert status == 503 and "expired after waiting" in answer["error"]
        with server.client("grpc") as client:
            tensors = [tensor(CLIENTS["grpc"], "images", values, "FP32")]
            with pytest.raises(InferenceServerException, match="expired after waiting") as caught:
                client.infer("tiny", tensors, timeout=30_000)
            assert caught.value.status() == "StatusCode.UNAVAILABLE"
            waiting = client.async_infer("tiny", tensors, lambda result, error: None)
            pending = 'nv_inference_pending_request_count{model="tiny",version="1"} 1'
            while pending not in server.request("GET", "/metrics")[2].decode():
                time.sleep(0.002)
            status, headers, body = server.request("POST", "/v2/models/tiny/infer", json.dumps({"inputs": [entry]}))
            assert status == 503 and headers["retry-after"] == "1" and b"queue of model 'tiny' is full" in body
            with pytest.raises(InferenceServerException, match="queue of model 'tiny' is full") as caught:
                client.infer("tiny", tensors)
            assert caught.value.status() == "StatusCode.UNAVAILABLE"
            waiting.cancel()
        # Another model's queue is its own.
        assert server.request("POST", INFER, BODY)[0] == 200


def test_replacing_a_model_under_load_fails_no_request(own_repository: Path) -> None:
    with running(own_repository, allow_control=True) as server:
        statuses, values, done = [], set(), threading.Event()

        def ask() -> None:
            while not done.is_set():
                status, answer = server.json("POST", INFER, json.loads(BODY))
                statuses.append(status)
                values.add(answer["outputs"][0]["data"][0] if status == 200 else answer["error"])

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        for version in (2, 1, 10):
            policy = f"version_policy {{ specific {{ versions: {version} }} }}"
            (own_repository / "grown" / "config.pbtxt").write_text(policy)
            assert server.request("POST", "/v2/repository/models/grown/load")[0] == 200
        done.set()
        for client in clients:
            client.join(60)
        assert set(statuses) == {200}
        assert values <= {2, 3, 11}


def test_metrics_are_read_by_prometheus(repository: Path) -> None:
    with running(repository) as server:
        for _ in range(3):
            assert server.request("POST", INFER, BODY)[0] == 200
        status, headers, page = server.request("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(page.decode())}

    def value(name: str, **labels: str) -> float:
        wanted = {"model": "grown", "version": "10", **labels}
        (sample,) = [sample for sample in families[name].samples if sample.labels == wanted]
        return sample.value

    assert value("nv_inference_request_success") == value("nv_inference_count") == 3
    assert 1 <= value("nv_inference_exec_count") <= 3
    assert value("nv_inference_request_failure", reason="REJECTED") == 0
    assert value("nv_inference_request_duration_us") >= value("nv_inference_compute_infer_duration_us") > 0
    assert families["nv_inference_pending_request_count"].type == "gauge"
    assert families["aps_server_ready"].samples[0].value == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_the_process_drains_at_sigterm(repository: Path) -> None:
    """The command itself, in a process of its own."""
    command = [sys.executable, "-m", "aps_deploy.cli", "serve", str(repository), "--port", "0", "--grpc-port", "0"]
    options = ["--threads", "1", "--access-log", "--drain-delay-s", "0.1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.fullmatch(r"ready: http://127\.0\.0\.1:(\d+), gRPC on port \d+\n", line)
            assert match is not None, line
            connection = http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=60)
            connection.request("POST", INFER, BODY, {"X-Request-Id": "first"})
            response = connection.getresponse()
            assert response.status == 200 and json.loads(response.read())["outputs"][0]["data"] == [11, 12]
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    (answered,) = [line for line in lines if line.get("request_id") == "first"]
    assert (answered["request"], answered["status"], answered["level"]) == (f"POST {INFER}", 200, "info")
    assert [line["message"] for line in lines][-2:] == [
        "stopping: not ready any more, accepted requests are answered",
        "stopped",
    ]
