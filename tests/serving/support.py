"""A server on free ports in a thread of this process, and plain HTTP requests to it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

# Whatever imports this file is skipped where the server's packages or its client are missing.
pytest.importorskip("uvicorn", reason="the server's packages are not installed (extra serve)")
pytest.importorskip("uvloop", reason="the server's packages are not installed (extra serve)")
pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed (extra serve)")
pytest.importorskip("tritonclient.http", reason="tritonclient's HTTP client is not installed (extra test)")

import tritonclient.grpc
import tritonclient.http
import uvloop

from aps_deploy.serving.running import Addresses, Stopping, serve
from aps_deploy.serving.settings import ServeSettings

CLIENTS: dict[str, ModuleType] = {"http": tritonclient.http, "grpc": tritonclient.grpc}


class Running:
    """A server that listens.

    Attributes:
        where: its addresses.
        stopping: what stops it.
    """

    def __init__(self, where: Addresses, stopping: Stopping) -> None:
        self.where = where
        self.stopping = stopping

    def client(self, transport: str, **arguments: Any) -> Any:
        port = self.where.port if transport == "http" else self.where.grpc_port
        return CLIENTS[transport].InferenceServerClient(f"127.0.0.1:{port}", **arguments)

    def request(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers (lower-case names) and body of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.where.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def json(self, method: str, path: str, document: object = None, **headers: str) -> tuple[int, Any]:
        """Return status and JSON of one request that carries JSON."""
        body = None if document is None else json.dumps(document)
        status, _, answer = self.request(method, path, body, headers)
        return status, json.loads(answer) if answer else None


@contextlib.contextmanager
def running(target: Path, **settings: Any) -> Iterator[Running]:
    """Start a server on free ports, wait until it is ready, and stop it at the end."""
    with starting(target, **settings) as (server, _):
        yield server


@contextlib.contextmanager
def starting(target: Path, **settings: Any) -> Iterator[tuple[Running, threading.Thread]]:
    """As `running`, with the thread that ends when the server has stopped."""
    own: dict[str, Any] = {"port": 0, "grpc_port": 0, "threads": 1, "drain_delay_s": 0.0}
    chosen = ServeSettings(target, **{**own, **settings})
    listening, failure, found = threading.Event(), list[BaseException](), list[Running]()

    def started(where: Addresses, stopping: Stopping) -> None:
        found.append(Running(where, stopping))
        listening.set()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve(chosen, started=started))
        except BaseException as error:  # handed to the test
            failure.append(error)
            listening.set()

    thread = threading.Thread(target=run, name="server", daemon=True)
    thread.start()
    assert listening.wait(120), "the server does not start"
    if failure:
        raise failure[0]
    try:
        yield found[0], thread
    finally:
        with contextlib.suppress(RuntimeError):  # the test stopped it: its loop is closed
            found[0].stopping.ask()
        thread.join(60)
        assert not thread.is_alive(), "the server does not stop"
    if failure:
        raise failure[0]


def tensor(client: ModuleType, name: str, values: npt.NDArray[Any], datatype: str, **arguments: Any) -> Any:
    """Return a client's input tensor."""
    infer_input = client.InferInput(name, list(values.shape), datatype)
    infer_input.set_data_from_numpy(values, **arguments)
    return infer_input


def float_list(values: npt.NDArray[np.float32]) -> list[float]:
    """Return an array's elements as JSON carries them."""
    return [float(value) for value in values.ravel()]
