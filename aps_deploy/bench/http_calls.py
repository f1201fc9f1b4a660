"""Requests over HTTP/1.1 for measuring: whole requests prepared beforehand, answers read with the least work.

A general client costs more processor time per request than the server, which would measure the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aps_deploy.bench.calls import Kind, Reply
from aps_deploy.bench.payloads import Payload
from aps_deploy.bench.target import Address, bearer, error_of, model_path, tls_context

_REFUSALS = (429, 503)
_CONNECT_TIMEOUT_S = 30.0


def http_requests(address: Address, payloads: Sequence[Payload], token: str | None) -> list[bytes]:
    """Return the bytes of every request: head and body."""
    requests = []
    for payload in payloads:
        body, header_length = payload.http_body()
        headers = {
            "Host": address.authority,
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(header_length),
            "Content-Length": str(len(body)),
            **bearer(token),
        }
        lines = [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([f"POST {model_path(address)}/infer HTTP/1.1", *lines, "", ""])
        requests.append(head.encode() + body)
    return requests


class HttpCaller:
    """A client with one connection; see `aps_deploy.bench.calls.Caller`.

    Args:
        address: the server.
        requests: from `http_requests`.
        timeout_s: how long an answer may take.
    """

    def __init__(self, address: Address, requests: Sequence[bytes], timeout_s: float) -> None:
        self._address = address
        self._requests = requests
        self._timeout_s = timeout_s
        self._tls = tls_context(address)
        self._connection: _Connection | None = None

    async def ask(self, number: int) -> Reply:
        """Send one request and return what became of it."""
        try:
            if self._connection is None or self._connection.is_closed:
                self._connection = await self._connect()
            return await self._connection.exchange(self._requests[number], self._timeout_s)
        except (OSError, TimeoutError) as error:
            return Reply("failed", f"{type(error).__name__}: {error}".encode())

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(
                _Connection, self._address.host, self._address.port, ssl=self._tls
            )
        return connection

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.transport.abort()


class _Connection(asyncio.Protocol):
    """One HTTP connection with one request on its way at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.is_closed = False
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._answer: asyncio.Future[Reply] | None = None
        self._status = 0
        self._has_retry_after = False
        self._end = 0  # where the response ends in what was received; 0 before its head was read
        self._start = 0

    async def exchange(self, request: bytes, timeout_s: float) -> Reply:
        """Send a request and return the reply to it."""
        self._received.clear()
        self._end = 0
        self._answer = self._loop.create_future()
        timer = self._loop.call_later(timeout_s, self._break_with, TimeoutError(f"no answer within {timeout_s:g} s"))
        self.transport.write(request)
        try:
            return await self._answer
        finally:
            timer.cancel()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Read on, until the response is whole."""
        self._received += data
        if self._end == 0 and not self._read_head():
            return
        if len(self._received) >= self._end and self._answer is not None and not self._answer.done():
            content = bytes(self._received[self._start : self._end])
            if self._status == 200:
                self._answer.set_result(Reply("answered", content))
            else:
                kind: Kind = "refused" if self._status in _REFUSALS else "failed"
                reason = f"{self._status}: {error_of(content)}".encode()
                self._answer.set_result(Reply(kind, reason, self._has_retry_after))

    def connection_lost(self, error: Exception | None) -> None:
        """Break off what waits for an answer."""
        self.is_closed = True
        self._break_with(error or ConnectionResetError("the server closed the connection"))

    def _read_head(self) -> bool:
        """Read status and length once the head is whole; tell whether it is."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        line, *lines = bytes(self._received[:end]).split(b"\r\n")
        fields = dict(field.lower().split(b":", 1) for field in lines if b":" in field)
        length = fields.get(b"content-length", b"").strip()
        try:
            self._status = int(line.split()[1])
            self._start, self._end = end + 4, end + 4 + int(length)
        except (IndexError, ValueError):
            self._break_with(ConnectionError("the answer is no HTTP with a Content-Length"))
            return False
        self._has_retry_after = b"retry-after" in fields
        if fields.get(b"connection", b"").strip() == b"close":
            self.is_closed = True
        return True

    def _break_with(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.is_closed = True
        self.transport.abort()
