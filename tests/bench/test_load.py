"""The load tool against a real server, and against servers that answer wrongly, refuse or go away."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aps_deploy.bench.load import LoadResult, LoadSettings, measure_load
from aps_deploy.errors import ApsError, InputError
from tests.serving.conftest import write_repository
from tests.serving.support import running

METADATA = {"name": "fake", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("repository") / "models")


def measured(url: str, **settings: Any) -> LoadResult:
    chosen = {"concurrencies": (1, 4), "warm_up_s": 0.0, "window_s": 0.05, "max_windows": 3, **settings}
    return measure_load(LoadSettings(url, **chosen))


@pytest.mark.parametrize("transport", ["http", "grpc"])
@pytest.mark.parametrize("model", ["tiny", "half", "grown/versions/2"])
def test_a_server_answers_alike_alone_and_in_company(repository: Path, transport: str, model: str) -> None:
    with running(repository, token="secret") as server:
        port = server.where.port if transport == "http" else server.where.grpc_port
        url = f"{transport}://127.0.0.1:{port}/v2/models/{model}"
        result = measured(url, batch_size=2, image_size=8, token="secret")
        with pytest.raises(InputError, match=r"token.*check --url"):
            measured(url, token="wrong")
    result.check()
    assert [level.concurrency for level in result.levels] == [1, 4]
    for level in result.levels:
        assert level.answered > 0 and level.refused == level.failed == level.wrong == 0
        assert level.images_per_s == 2 * level.requests_per_s > 0
        assert level.p50_ms is not None and level.p99_ms is not None and 0 < level.p50_ms <= level.p99_ms
    assert result.to_dict()["levels"][0]["concurrency"] == 1


def test_refusals_are_no_failures(repository: Path) -> None:
    """A full queue refuses: what is answered is right, what is refused is counted, and nothing is wrong."""
    with running(repository / "tiny" / "1" / "model.onnx", max_queue=1, batch_delay_ms=20.0) as server:
        for transport, port in (("http", server.where.port), ("grpc", server.where.grpc_port)):
            result = measured(f"{transport}://127.0.0.1:{port}", concurrencies=(8,), image_size=8)
            result.check()
            assert result.levels[0].refused > 0 and result.levels[0].answered > 0


class FakeServer(socketserver.ThreadingTCPServer):
    """Answers metadata as a server does, and requests as a test says."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, reply: Callable[[int], bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.number = 0


class _Handler(socketserver.StreamRequestHandler):
    server: FakeServer

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while line := self.rfile.readline():
                length = 0
                while (field := self.rfile.readline()) not in (b"\r\n", b""):
                    if field.lower().startswith(b"content-length:"):
                        length = int(field.split(b":")[1])
                self.rfile.read(length)
                if line.startswith(b"GET"):
                    self.wfile.write(response(json.dumps(METADATA).encode()))
                    continue
                self.server.number += 1
                reply = self.server.reply(self.server.number)
                if not reply:
                    return
                self.wfile.write(reply)


def response(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


@contextlib.contextmanager
def fake(reply: Callable[[int], bytes]) -> Iterator[str]:
    with FakeServer(reply) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v2/models/fake"
        server.shutdown()


def test_a_changed_bit_is_found() -> None:
    with fake(lambda number: response(b"same" if number % 50 else b"sane")) as url:
        result = measured(url, concurrencies=(2,), window_s=0.2)
    assert 0 < result.levels[0].wrong < result.levels[0].answered
    with pytest.raises(ApsError, match=r"\d+ answers differ from those that the same images got alone"):
        result.check()


def test_busy_servers_and_broken_connections_are_told_apart() -> None:
    replies = [
        response(b'{"error": "busy"}', "503 Service Unavailable", "Retry-After: 1\r\n"),
        response(b'{"error": "busy"}', "429 Too Many Requests"),
        response(b"same"),
    ]
    with fake(lambda number: response(b"same") if number <= 16 else replies[number % 3]) as url:
        result = measured(url, concurrencies=(1,))
    result.check()
    level = result.levels[0]
    assert level.refused > 0 and level.answered > 0 and level.failed == 0
    assert level.refused == pytest.approx(2 * level.answered, abs=4)
    with fake(lambda number: response(b"same") if number <= 16 else b"") as url:
        result = measured(url, concurrencies=(1,))
    assert result.levels[0].failed > 0 and result.levels[0].answered == 0
    with pytest.raises(ApsError, match=r"requests failed, the first by: ConnectionResetError"):
        result.check()


def test_a_server_that_closes_politely_is_asked_again() -> None:
    with fake(lambda number: response(b"same", more="Connection: close\r\n")) as url:
        result = measured(url, concurrencies=(2,))
    result.check()
    assert result.levels[0].answered > 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (response(b'{"error": "no such input."}', "400 Bad Request"), "400: no such input"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "no HTTP with a Content-Length"),
        (b"", "ConnectionResetError"),
    ],
)
def test_a_server_that_answers_nobody(reply: bytes, reason: str) -> None:
    with fake(lambda _: reply) as url, pytest.raises(ApsError, match=rf"a single request is not answered \(.*{reason}"):
        measured(url)


def test_which_model_has_to_be_said(repository: Path) -> None:
    with running(repository) as server:
        for url in (f"http://127.0.0.1:{server.where.port}", f"grpc://127.0.0.1:{server.where.grpc_port}"):
            with pytest.raises(InputError, match="the server has fixed, grown, half, tiny; add /v2/models/NAME"):
                measured(url)
            with pytest.raises(InputError, match=r"'other' is not found; check --url"):
                measured(f"{url}/v2/models/other")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_nobody_is_there(scheme: str) -> None:
    with pytest.raises(ApsError, match=r"nobody answers at .* start a server with `aps-deploy serve FILE`"):
        measured(f"{scheme}://127.0.0.1:9/v2/models/x")
