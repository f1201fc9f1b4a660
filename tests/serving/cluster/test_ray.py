"""The application on a Ray cluster of this host: the answers of the embedded server, and no request lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.runtimes import graphs
from tests.serving.cluster.commands import MISSING, command, environment, on_ray
from tests.serving.cluster.load import Load
from tests.serving.ports import free_ports
from tests.serving.proof import certify
from tests.serving.support import Running, tensor
from tests.serving.test_http_requests import INFER, ONE, REFUSED, binary, document

pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

GETS = [
    *("/v2", "/v2/models/tiny", "/v2/models/grown/versions/2", "/v2/models/half/config", "/v2/models/tiny/ready"),
    *(
        "/v2/models/nothing",
        "/v2/models/nothing/ready",
        "/v2/nowhere",
        "/v2/health/live",
        "/v2/health/ready",
        "/openapi.json",
    ),
]


@pytest.fixture(scope="module")
def ray(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with on_ray(repository, tmp_path_factory.mktemp("ray") / "log", "--replicas", "2") as found:
        yield found


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_routes_are_those_of_the_embedded_server(ray: Any, server: Running) -> None:
    ports = (ray[0], server.where.port)
    for path in GETS:
        theirs, ours = (ask(port, "GET", path) for port in ports)
        assert theirs == ours, path
    theirs, ours = (ask(port, "POST", "/v2/repository/index") for port in ports)
    assert theirs == ours and len(json.loads(ours[1])) == 5
    assert ask(ports[0], "DELETE", INFER)[0] == 405
    assert b"nv_inference_count" in ask(ports[0], "GET", "/metrics")[1]


def test_the_answers_are_those_of_the_embedded_server(ray: Any, server: Running) -> None:
    ports = (ray[0], server.where.port)
    body, headers = binary(graphs.images(3), binary_data_output=True)
    theirs, ours = (ask(port, "POST", INFER, body, **headers) for port in ports)
    assert theirs == ours and ours[0] == 200
    for request, _ in REFUSED.values():
        theirs, ours = (ask(port, "POST", INFER, json.dumps(request).encode()) for port in ports)
        assert theirs == ours, request


def test_the_client_of_triton(ray: Any) -> None:
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{ray[0]}") as client:
        assert client.is_server_ready() and client.is_model_ready("tiny")
        images = graphs.images(3)
        inputs = [tensor(tritonclient.http, "images", images, "FP32")]
        result = client.infer(
            "tiny", inputs, request_compression_algorithm="gzip", response_compression_algorithm="deflate"
        )
        np.testing.assert_allclose(result.as_numpy("logits"), graphs.expected(images)[0], atol=1e-4)
        assert client.get_inference_statistics("tiny")["model_stats"][0]["name"] == "tiny"
        with pytest.raises(InferenceServerException, match="unknown model: 'nothing'"):
            client.infer("nothing", inputs)


def test_the_client_of_triton_over_grpc(ray: Any) -> None:
    _, process = ray
    grpc_port = process.args[process.args.index("--grpc-port") + 1]
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny")
        images = graphs.images(3)
        inputs = [tensor(tritonclient.grpc, "images", images, "FP32")]
        result = client.infer("tiny", inputs, request_id="seven")
        np.testing.assert_allclose(result.as_numpy("logits"), graphs.expected(images)[0], atol=1e-4)
        assert result.get_response().id == "seven"
        assert client.get_model_metadata("half").inputs[0].datatype == "FP16"
        assert client.get_model_config("half").config.max_batch_size == 4
        assert [entry.name for entry in client.get_model_repository_index().models][:1] == ["fixed"]
        for model, shape, status in (("nothing", (1, 3, 8, 8), "NOT_FOUND"), ("tiny", (3, 8, 8), "INVALID_ARGUMENT")):
            wrong = [tensor(tritonclient.grpc, "images", np.zeros(shape, np.float32), "FP32")]
            with pytest.raises(InferenceServerException) as caught:
                client.infer(model, wrong)
            assert caught.value.status() == f"StatusCode.{status}" and model in str(caught.value)


def tiny_load(port: int, num_clients: int = 8) -> Load:
    body = json.dumps(document(ONE)).encode()
    expected = json.loads(ask(port, "POST", INFER, body)[1])["outputs"]
    return Load([("127.0.0.1", port)], INFER, body, expected, num_clients)


def replicas_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes of the replicas of a command's cluster."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
                names[int(folder.name)] = (folder / "cmdline").read_text()
            except OSError:  # it ended meanwhile
                continue
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])

    def belongs(pid: int) -> bool:
        while pid in parents and pid != process.pid:
            pid = parents[pid]
        return pid == process.pid

    return [pid for pid, name in names.items() if name.startswith("ray::ServeReplica") and belongs(pid)]


def test_a_replica_that_is_killed_under_load(ray: Any) -> None:
    """The other one answers; what the killed one was at is sent again, or refused by the front door, and no more."""
    port, process = ray
    load = tiny_load(port)
    load.start()
    time.sleep(3)
    first = replicas_of(process)
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    killed = time.monotonic()
    while len(replicas_of(process)) < 2 or first[0] in replicas_of(process):
        assert time.monotonic() < killed + 120, "no replica takes the killed one's place"
        time.sleep(0.5)
    time.sleep(3)
    counts = load.stop()
    assert counts.wrong == 0 and counts.right > 200
    late = [kind for when, kind in counts.failures if when > killed + 15]
    # Eight clients had one request each under way.
    assert len(counts.failures) <= 8 and not late, counts.by_kind()


def test_a_stop_under_load_loses_no_accepted_request(repository: Path, tmp_path: Path) -> None:
    with on_ray(repository, tmp_path / "log") as (port, process):
        load = tiny_load(port)
        load.start()
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        counts = load.stop()
    assert counts.wrong == 0 and counts.right > 100
    # What came after the application left was refused by the front door, or found none: never begun and dropped.
    kinds = set(counts.by_kind())
    closed = {
        "RemoteDisconnected",
        "ConnectionResetError",
        "BrokenPipeError",
    }  # an idle connection, as it was used again
    assert kinds <= {"404", "503", "ConnectionRefusedError", *closed}, kinds
    assert sum(count for kind, count in counts.by_kind().items() if kind in closed) <= 8


def test_the_certificate_is_asked_for_in_the_replica(tmp_path: Path) -> None:
    """This host's command opens no file: the replica does, wherever it runs, and its sentence is what is told."""
    file = graphs.save(graphs.classifier(), tmp_path / "net.onnx")
    certify(file, passed=False)
    ports = (free_ports(1)[0], free_ports(1)[0])
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        result = subprocess.run(
            command(file, ports, "--require-certificate"),
            capture_output=True,
            text=True,
            env=environment(folder),
            timeout=180,
            check=False,
        )
    assert result.returncode == 2, result.stderr
    assert f"{tmp_path / 'net.certificate.json'} did not pass (top1_consistency)" in result.stderr.splitlines()[-1]


def test_the_token_is_asked_for_in_the_replica(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    with on_ray(repository, tmp_path / "log", "--token-file", str(tmp_path / "token")) as (port, _):
        assert ask(port, "GET", "/v2")[0] == 401
        assert ask(port, "GET", "/v2", Authorization="Bearer secret")[0] == 200


def test_replicas_follow_the_load(repository: Path, tmp_path: Path) -> None:
    options = ("--replicas", "1:2", "--target-requests", "1")
    with on_ray(repository, tmp_path / "log", *options) as (port, process):
        assert len(replicas_of(process)) == 1
        load = tiny_load(port, num_clients=16)
        load.start()
        deadline = time.monotonic() + 120
        while len(replicas_of(process)) < 2:
            assert time.monotonic() < deadline, "no second replica comes"
            time.sleep(1)
        counts = load.stop()
        assert counts.wrong == 0 and not counts.failures
