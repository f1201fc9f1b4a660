"""Requests that come whole are answered without the application, and every answer is the one that it would give."""

from __future__ import annotations

import gzip
import json
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aps_deploy.serving.direct_inference import DirectInference
from tests.serving.support import Running, running

PATH, GROWN = "/v2/models/tiny/infer", "/v2/models/grown/versions/2/infer"
VALUES = np.arange(192, dtype=np.float32).reshape(1, 3, 8, 8)
ENTRY = {"name": "images", "shape": [1, 3, 8, 8], "datatype": "FP32"}
LISTED = {**ENTRY, "data": VALUES.ravel().tolist()}
BINARY = {**ENTRY, "parameters": {"binary_data_size": VALUES.nbytes}}
CLASSES = {"name": "logits", "parameters": {"classification": 2}}
OTHER = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}


def lists(entry: dict[str, Any], **more: Any) -> tuple[bytes, dict[str, str]]:
    return json.dumps({"inputs": [entry], **more}).encode(), {}


def binary(tail: bytes = VALUES.tobytes(), **more: Any) -> tuple[bytes, dict[str, str]]:
    header, _ = lists(BINARY, **more)
    return header + tail, {"Inference-Header-Content-Length": str(len(header))}


REQUESTS = {
    "lists": (PATH, *lists(LISTED)),
    "binary": (PATH, *binary(parameters={"binary_data_output": True})),
    "mixed": (PATH, *binary(id="7")),
    "classes": (PATH, *binary(outputs=[CLASSES])),
    "version": (GROWN, *lists(OTHER)),
    "raw": (PATH, VALUES.tobytes(), {"Inference-Header-Content-Length": "0"}),
    "compressed": (PATH, gzip.compress(lists(LISTED)[0]), {"Content-Encoding": "gzip"}),
    "large answer": (GROWN, lists(OTHER, id="x" * 2000)[0], {"Accept-Encoding": "gzip"}),
    "no JSON": (PATH, b"{", {}),
    "wrong shape": (PATH, *lists({**LISTED, "shape": [1, 3, 8, 9]})),
    "too few bytes": (PATH, *binary(b"1234")),
    "too many bytes": (PATH, *binary(VALUES.tobytes() + b"1234")),
    "another site": (PATH, lists(LISTED)[0], {"Sec-Fetch-Site": "cross-site"}),
    "unknown model": ("/v2/models/nothing/infer", *lists(LISTED)),
    "expired": (PATH, *lists(LISTED, parameters={"timeout": 1})),
    "bad timeout": (PATH, *lists(LISTED, parameters={"timeout": -1})),
}


def head_of(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    given = {"Host": "localhost", "X-Request-Id": "one", "Content-Length": str(len(body)), **headers}
    lines = [f"{name}: {value}" for name, value in given.items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", *lines, "", ""]).encode()


def exchange(connection: socket.socket, pieces: list[bytes]) -> tuple[int, dict[str, str], bytes]:
    """Send pieces, each to be read by itself, and return status, headers and body of the answer."""
    for number, piece in enumerate(pieces):
        if number:
            # The server has read what came before once it answers something else.
            with socket.create_connection(connection.getpeername()) as other:
                other.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
                other.recv(4096)
        connection.sendall(piece)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(line.split()[1]), headers, body


@pytest.fixture(scope="module")
def connection(repository: Path) -> Iterator[socket.socket]:
    with (
        running(repository) as server,
        socket.create_connection(("127.0.0.1", server.where.port), timeout=60) as opened,
    ):
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield opened


@pytest.mark.parametrize("case", REQUESTS)
def test_whole_or_in_pieces_the_answer_is_the_same(
    connection: socket.socket, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    begin = DirectInference.begin

    def noted(self: DirectInference, cycle: Any) -> Any:
        future = begin(self, cycle)
        if cycle.scope["method"] == "POST":
            begun.append(future)
        return future

    monkeypatch.setattr(DirectInference, "begin", noted)
    path, body, headers = REQUESTS[case]
    head = head_of(path, body, headers)
    # Twice: what the model remembers of the first request must not change what becomes of the second.
    direct = [exchange(connection, [head + body]) for _ in range(2)]
    # The application answers what it alone can read, and tells by None that it was asked to.
    assert [future is None for future in begun] == [case == "compressed"] * 2
    begun.clear()
    by_application = exchange(connection, [head, body])
    assert begun == []
    for status, given, answer in direct:
        assert (status, comparable(given)) == (by_application[0], comparable(by_application[1]))
        assert without_times(answer) == without_times(by_application[2])
    assert direct[0][1]["x-request-id"] == "one"
    assert ("retry-after" in direct[0][1]) == (case == "expired")


def comparable(headers: dict[str, str]) -> dict[str, str]:
    """Return headers without the clock's, and without a length that depends on the waiting time in a message."""
    return {name: value for name, value in headers.items() if name not in ("date", "content-length")}


def without_times(body: bytes) -> bytes:
    return re.sub(rb"waiting \d+ ms", b"", body)


def test_what_came_is_answered_in_its_order(connection: socket.socket) -> None:
    """Three requests in one read: the first is answered directly, the others wait for it."""
    requests = [head_of(*REQUESTS[case]) + REQUESTS[case][1] for case in ("lists", "unknown model", "mixed")]
    connection.sendall(b"".join(requests))
    received = b""
    while received.count(b"HTTP/1.1 ") < 3 or b'"id":"7"' not in received:
        received += connection.recv(65536)
    found = re.findall(rb"HTTP/1\.1 (\d+)", received)
    assert found == [b"200", b"404", b"200"]


def test_a_bug_is_no_traceback_for_the_client(
    connection: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    caplog.set_level(logging.INFO, "aps_deploy")
    for name in ("parse_inference", "inference_response"):
        with monkeypatch.context() as patch:
            module = "http_app" if name == "parse_inference" else "direct_inference"
            patch.setattr(f"aps_deploy.serving.{module}.{name}", broken)
            status, _, body = exchange(connection, [head_of(*REQUESTS["lists"]) + REQUESTS["lists"][1]])
        assert status == 500 and b"internal error" in body and b"ZeroDivision" not in body
    assert caplog.text.count("raise ZeroDivisionError") == 2


def test_a_token_is_asked_for(repository: Path) -> None:
    with running(repository, token="secret") as server:
        path, body, headers = REQUESTS["binary"]
        for token, status in (("wrong", 401), ("secret", 200)):
            assert server.request("POST", path, body, {**headers, "Authorization": f"Bearer {token}"})[0] == status


def test_a_client_that_leaves_takes_its_work_along(repository: Path) -> None:
    with running(repository, batch_delay_ms=60_000.0) as server:
        path, body, headers = REQUESTS["binary"]
        with socket.create_connection(("127.0.0.1", server.where.port)) as leaving:
            leaving.sendall(head_of(path, body, headers) + body)
            wait_for(server, 'nv_inference_pending_request_count{model="tiny",version="1"} 1')
        wait_for(server, 'nv_inference_pending_request_count{model="tiny",version="1"} 0')
        wait_for(server, 'nv_inference_request_failure{model="tiny",version="1",reason="CANCELED"} 1')


def wait_for(server: Running, line: str) -> None:
    while line not in server.request("GET", "/metrics")[2].decode():
        pass
