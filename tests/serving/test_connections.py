"""Clients that cost too much, each a plain socket: too many, too slow, too large, or that never read their answers."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from aps_deploy.serving.connections import NUM_SPARE
from tests.concurrency import wait_until
from tests.runtimes import graphs
from tests.serving.support import CLIENTS, Running, running, tensor

PATIENCE_S = 30.0
LIMIT_S = 0.5
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
METADATA = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def strict(repository: Path) -> Iterator[Running]:
    """A server that waits half a second for a head or a body, and takes heads of 2 KiB."""
    file = repository / "grown" / "1" / "model.onnx"
    with running(file, header_timeout_s=LIMIT_S, body_timeout_s=LIMIT_S, max_header_kb=2.0, max_body_mb=0.1) as server:
        yield server


@contextlib.contextmanager
def connected(server: Running, port: int | None = None) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port or server.where.port), timeout=PATIENCE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def drip(connection: socket.socket, piece: bytes) -> None:
    """Send one piece after the other until the server has had enough."""
    deadline = time.monotonic() + PATIENCE_S
    connection.settimeout(0.02)
    while time.monotonic() < deadline:
        try:
            connection.send(piece)
            if connection.recv(1, socket.MSG_PEEK) == b"":
                return
            break  # an answer
        except TimeoutError:
            continue
        except ConnectionError:
            return
    else:
        pytest.fail("the server never had enough")
    connection.settimeout(PATIENCE_S)


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received


def answer_of(received: bytes) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and JSON of the only response."""
    head, _, body = received.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    assert len(body) == int(headers["content-length"])
    return int(line.split()[1]), headers, json.loads(body) if body else None


def is_well(server: Running) -> bool:
    return server.request("GET", "/v2")[0] == 200


@pytest.mark.parametrize("piece", [b"x", b"x: y\r\n"])
def test_a_head_that_never_ends_is_cut(strict: Running, piece: bytes) -> None:
    with connected(strict) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n")
        drip(connection, piece)
        assert is_well(strict)
        status, headers, document = answer_of(read_all(connection))
    assert status == 408 and headers["connection"] == "close"
    assert document == {"error": f"the request's headers did not arrive within {LIMIT_S:g} s."}


@pytest.mark.parametrize("first", [b"", METADATA], ids=["new", "used"])
def test_empty_lines_and_silence_are_cut(strict: Running, first: bytes) -> None:
    with connected(strict) as connection:
        connection.sendall(first)
        if first:
            connection.recv(65536)
        else:
            assert read_all(connection) == b""  # a client that says nothing
            return
        drip(connection, b"\r\n")
        assert read_all(connection) == b""


def test_a_slow_body_is_cut(strict: Running) -> None:
    with connected(strict) as connection:
        connection.sendall(b"POST /v2/models/model/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        drip(connection, b"x")
        status, _, document = answer_of(read_all(connection))
    assert status == 408 and document == {"error": f"the body did not arrive within {LIMIT_S:g} s."}


def test_a_slow_body_that_nobody_reads_is_cut(strict: Running) -> None:
    with connected(strict) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        while b"there is no POST /nowhere" not in connection.recv(65536):
            pass
        drip(connection, b"x")
        assert read_all(connection) == b""


def test_a_connection_that_is_used_stays(strict: Running) -> None:
    """Requests in pieces, each in time, with pauses between them that no head may take."""
    with connected(strict) as connection:
        for pause_s in (1.4 * LIMIT_S, 0.0):
            for piece in (METADATA[:10], METADATA[10:]):
                connection.sendall(piece)
                time.sleep(0.05)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(pause_s)


def test_two_requests_at_once_are_answered_in_their_order(strict: Running) -> None:
    with connected(strict) as connection:
        connection.sendall(METADATA + LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        received = read_all(connection)
    assert received.count(b"HTTP/1.1 200") == 2 and received.index(b'"extensions"') < received.rindex(b"HTTP/1.1")


LARGE_HEADS: dict[str, Callable[[], Iterator[bytes]]] = {
    "at once": lambda: iter([b"GET /v2 HTTP/1.1\r\nx: " + b"y" * 3000 + b"\r\n\r\n"]),
    "path": lambda: iter([b"GET /" + b"y" * 3000 + b" HTTP/1.1\r\n\r\n"]),
    "many": lambda: iter([b"GET /v2 HTTP/1.1\r\n", *(b"x%d: y\r\n" % number for number in range(400)), b"\r\n"]),
    "endless": lambda: iter([b"GET /v2 HTTP/1.1\r\nx: ", *[b"y" * 1000] * 200]),
}


@pytest.mark.parametrize("kind", LARGE_HEADS)
def test_large_heads_are_refused(strict: Running, kind: str) -> None:
    with connected(strict) as connection:
        with contextlib.suppress(ConnectionError):  # it does not read to the end
            for piece in LARGE_HEADS[kind]():
                connection.sendall(piece)
        received = read_all(connection)
    if received:  # a reset may overtake the answer while the client still sends
        status, headers, document = answer_of(received)
        assert status == 431 and headers["connection"] == "close"
        assert document == {"error": "the request's headers are larger than 2048 bytes, the most this server takes."}
    assert received or kind == "endless"
    assert is_well(strict)


INFER = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
CHUNKED = b"POST /v2/models/model/infer HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("pieces", [[b"x: y\r\n" * 20] * 100, [b"x: ", *[b"y" * 100] * 100]], ids=["many", "endless"])
def test_headers_behind_a_body_are_limited(repository: Path, pieces: list[bytes]) -> None:
    body = json.dumps(INFER).encode()
    with running(repository / "grown" / "1" / "model.onnx", max_header_kb=2.0) as server:
        with connected(server) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(CHUNKED + b"%x\r\n%s\r\n0\r\n" % (len(body), body))
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(0.001)
            assert read_all(connection) == b""  # not the answer to a body that took too long
        assert is_well(server)


def test_a_body_in_small_chunks_is_read(repository: Path) -> None:
    """The sizes of its chunks, sent apart, are more bytes than a head may have."""
    body = json.dumps(INFER).encode() + b" " * 800
    file = repository / "grown" / "1" / "model.onnx"
    with running(file, max_header_kb=2.0) as server, connected(server) as connection:
        connection.sendall(CHUNKED)
        for position in range(len(body)):
            connection.sendall(b"1\r\n")
            connection.sendall(body[position : position + 1] + b"\r\n")
        connection.sendall(b"0\r\nx: y\r\n\r\n")
        status, _, document = answer_of(read_all(connection))
    assert status == 200 and document["outputs"][0]["data"] == [2, 3]


def test_a_head_within_the_limit_is_read(strict: Running) -> None:
    assert strict.request("GET", "/v2", headers={"X-Long": "y" * 1800})[0] == 200


def test_what_is_no_http_is_refused_in_the_form_of_every_error(strict: Running) -> None:
    with connected(strict) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        status, _, document = answer_of(read_all(connection))
    assert status == 400 and list(document) == ["error"]


def test_one_connection_too_many(repository: Path) -> None:
    with (
        running(repository / "grown" / "1" / "model.onnx", max_connections=2) as server,
        contextlib.ExitStack() as stack,
    ):
        served = [stack.enter_context(connected(server)) for _ in range(2)]
        for connection in served:
            connection.sendall(METADATA)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        with connected(server) as connection:
            connection.sendall(METADATA)
            status, headers, document = answer_of(read_all(connection))
        assert status == 503 and headers["retry-after"] == "1" and headers["connection"] == "close"
        assert document == {"error": "this server has 2 connections, its most; try again later."}
        # A probe that got no answer would have a busy server killed.
        assert server.request("GET", "/v2/health/live")[0] == server.request("GET", "/v2/health/ready")[0] == 200
        served.pop().close()
        wait_until(lambda: server.request("GET", "/v2")[0] == 200)


def test_far_too_many_connections_are_closed_without_a_word(repository: Path) -> None:
    with (
        running(repository / "grown" / "1" / "model.onnx", max_connections=1) as server,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(1 + NUM_SPARE):
            stack.enter_context(connected(server))
        with connected(server) as connection:
            assert read_all(connection) == b""
    # The server stopped although all of them were open.


def test_a_client_that_does_not_read_is_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Answers of a megabyte, of which a few fill every buffer on the way."""
    model = graphs.make_model(
        [helper.make_node("Tile", ["x", "repeats"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1 << 18])],
        {"repeats": np.array([1, 1 << 18], np.int64)},
    )
    document = {
        "inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}],
        "parameters": {"binary_data_output": True},
    }
    body = json.dumps(document).encode()
    request = b"POST /v2/models/tile/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with running(graphs.save(model, tmp_path / "tile.onnx"), body_timeout_s=0.2) as server, connected(server) as client:
        deadline = time.monotonic() + PATIENCE_S
        with pytest.raises(ConnectionError):
            while time.monotonic() < deadline:
                client.sendall(request)
                time.sleep(0.02)
        assert is_well(server)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_requests_sent_far_ahead_are_refused(strict: Running) -> None:
    """Each is small, and each would wait in memory for the one before it."""
    with connected(strict) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(METADATA * 5000)
        assert read_all(connection).count(b"HTTP/1.1 200") < 5000
    assert is_well(strict)


def test_a_hundred_requests_sent_ahead_are_answered(strict: Running) -> None:
    with connected(strict) as connection:
        connection.sendall(METADATA * 99 + METADATA.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert read_all(connection).count(b"HTTP/1.1 200") == 100


@pytest.mark.parametrize("name", ["..", "..%2f..%2fetc", "%2e%2e", "%00", "grown%2f1", "/etc/passwd"])
def test_a_name_does_not_lead_out_of_the_repository(server: Running, name: str) -> None:
    with connected(server) as connection:
        connection.sendall(b"GET /v2/models/%s/config HTTP/1.1\r\nConnection: close\r\n\r\n" % name.encode())
        status, _, document = answer_of(read_all(connection))
    assert status in (400, 404) and list(document) == ["error"]


def test_grpc_messages_are_limited_packed_or_not(strict: Running) -> None:
    values = np.zeros((16000, 2), np.float32)  # 128,000 bytes that compress to a few hundred
    for packed in (None, "gzip"):
        with strict.client("grpc") as client, pytest.raises(InferenceServerException) as caught:
            client.infer("model", [tensor(CLIENTS["grpc"], "x", values, "FP32")], compression_algorithm=packed)
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        assert "larger than max" in str(caught.value).lower()


def test_grpc_metadata_is_limited(strict: Running) -> None:
    with strict.client("grpc") as client:
        assert client.get_server_metadata(headers={"x-long": "y" * 1000})
        with pytest.raises(InferenceServerException) as caught:
            client.get_server_metadata(headers={"x-long": "y" * 4000})
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_a_grpc_connection_that_says_nothing_is_cut(strict: Running) -> None:
    with connected(strict, strict.where.grpc_port) as connection:
        read_all(connection)  # the server's own settings, then the end


def test_too_many_grpc_calls_at_once(repository: Path) -> None:
    # The delay keeps the requests in the queue; one connection carries them all.
    file = repository / "grown" / "1" / "model.onnx"
    with running(file, max_connections=2, batch_delay_ms=60_000.0) as server, server.client("grpc") as client:
        tensors = [tensor(CLIENTS["grpc"], "x", np.zeros((1, 2), np.float32), "FP32")]
        calls = [client.async_infer("model", tensors, lambda result, error: None) for _ in range(2)]
        pending = 'nv_inference_pending_request_count{model="model",version="1"} 2'
        wait_until(lambda: pending in server.request("GET", "/metrics")[2].decode())
        with pytest.raises(InferenceServerException) as caught:
            client.get_server_metadata()
        assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        for call in calls:
            call.cancel()
        wait_until(lambda: is_live(client))


def is_live(client: Any) -> bool:
    try:
        return bool(client.is_server_live())
    except InferenceServerException:
        return False


def call_in_pieces(server: Running, pieces: Iterator[bytes]) -> grpc.RpcError:
    """Call the method for requests as a stream, which is the same on the wire; return the error."""
    with grpc.insecure_channel(f"127.0.0.1:{server.where.grpc_port}") as channel:
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(pieces, timeout=PATIENCE_S)
    return caught.value


def test_a_grpc_message_that_does_not_come_is_not_waited_for(strict: Running) -> None:
    never = threading.Event()

    def wait() -> Iterator[bytes]:
        never.wait(PATIENCE_S)
        yield b""

    error = call_in_pieces(strict, wait())
    never.set()
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.details() == f"the message did not arrive within {LIMIT_S:g} s."


@pytest.mark.parametrize(("pieces", "words"), [((), "carries no message"), ((b"\xff",), "is no ModelInferRequest")])
def test_grpc_calls_without_a_message_that_can_be_read(strict: Running, pieces: tuple[bytes, ...], words: str) -> None:
    error = call_in_pieces(strict, iter(pieces))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and words in error.details()


def test_without_the_token_no_message_is_read(repository: Path) -> None:
    with running(repository / "grown" / "1" / "model.onnx", token="correct-horse") as server:
        never = threading.Event()

        def wait() -> Iterator[bytes]:
            never.wait(PATIENCE_S)
            yield b""

        error = call_in_pieces(server, wait())
        never.set()
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED


def test_one_grpc_connection_too_many(repository: Path) -> None:
    with (
        running(repository / "grown" / "1" / "model.onnx", max_connections=2) as server,
        contextlib.ExitStack() as stack,
    ):

        def live(seconds: float) -> bool:
            # A pool of its own, or the channels would share one connection.
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.where.grpc_port}", options))
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ServerLive",
                service_pb2.ServerLiveRequest.SerializeToString,
                service_pb2.ServerLiveResponse.FromString,
            )
            return bool(call(service_pb2.ServerLiveRequest(), timeout=seconds, wait_for_ready=False).live)

        assert live(PATIENCE_S) and live(PATIENCE_S)
        with pytest.raises(grpc.RpcError) as caught:
            live(5.0)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert server.request("GET", "/v2/health/live")[0] == 200
