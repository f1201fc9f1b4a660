"""HTTP requests and responses over ASGI, no more of them than an inference server needs.

A web framework costs more per request than a small network: this and uvicorn are all that is between them.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from aps_deploy.serving.errors import (
    BodyTimeoutError,
    InvalidRequestError,
    MethodNotAllowedError,
    ServingError,
    TooLargeError,
    UnsupportedContentError,
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_SMALLEST_COMPRESSED = 1024
"""Bodies of fewer bytes are sent as they are: compressing them costs more than it saves."""

_LARGE_COMPRESSED = 64 * 1024
"""Bodies of more bytes are decompressed on another thread, so that other requests go on meanwhile."""


class ClientGoneError(Exception):
    """The client closed the connection before it had its answer."""


class Request:
    """One HTTP request.

    Args:
        scope: ASGI's connection scope.
        receive: ASGI's receive function.

    Attributes:
        request_id: its ID in the log.
        arrived_ns: when it came, by the monotonic clock.
    """

    def __init__(self, scope: Mapping[str, Any], receive: Receive, request_id: str, arrived_ns: int) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.request_id = request_id
        self.arrived_ns = arrived_ns
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._query: bytes = scope["query_string"]
        self._receive = receive

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header, by its lower-case name."""
        return self._headers.get(name)

    def query(self, name: str) -> str | None:
        """Return a parameter of the query string."""
        values = parse_qs(self._query.decode("latin-1")).get(name)
        return values[0] if values else None

    async def body(self, max_bytes: int, timeout_s: float) -> bytes:
        """Return the whole body, decompressed.

        Args:
            max_bytes: largest body, before and after decompression.
            timeout_s: how long it may take to arrive.

        Raises:
            TooLargeError: it is larger.
            BodyTimeoutError: it takes longer.
            UnsupportedContentError: it is compressed in a way that is not read here.
            InvalidRequestError: it does not decompress.
            ClientGoneError: the client left.
        """
        coding = (self.header(b"content-encoding") or b"identity").strip().lower()
        if coding not in (b"identity", b"gzip", b"deflate"):
            raise UnsupportedContentError(
                f"the body's Content-Encoding is {coding.decode('latin-1')!r}; accepted: gzip, deflate, identity."
            )
        declared = self.header(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > max_bytes:
            raise _too_large(max_bytes)
        try:
            async with asyncio.timeout(timeout_s):
                data = await self._read(max_bytes)
        except TimeoutError:
            raise BodyTimeoutError(f"the body did not arrive within {timeout_s:g} s.") from None
        if coding == b"identity":
            return data
        decompress = functools.partial(_decompress, data, max_bytes)
        if len(data) < _LARGE_COMPRESSED:
            return decompress()
        return await asyncio.get_running_loop().run_in_executor(None, decompress)

    async def _read(self, max_bytes: int) -> bytes:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            first: bytes = message.get("body", b"")
            if len(first) > max_bytes:
                raise _too_large(max_bytes)
            return first
        chunks = bytearray()
        while message["type"] == "http.request":
            chunks += message.get("body", b"")
            if len(chunks) > max_bytes:
                raise _too_large(max_bytes)
            if not message.get("more_body", False):
                return bytes(chunks)
            message = await self._receive()
        raise ClientGoneError

    async def wait_for(self, answer: asyncio.Future[Any]) -> Any:
        """Return a future's result; cancel it when the client leaves. To be called after the body was read.

        Raises:
            ClientGoneError: the client left.
        """
        gone = asyncio.ensure_future(self._receive())
        gone.add_done_callback(lambda _: answer.cancel())
        try:
            return await answer
        except asyncio.CancelledError:
            if gone.done() and not gone.cancelled():
                raise ClientGoneError from None
            answer.cancel()
            raise
        finally:
            gone.cancel()

    @property
    def accepted_coding(self) -> str | None:
        """How the client would like the response compressed: ``gzip``, ``deflate``, or None for not at all."""
        header = self.header(b"accept-encoding")
        if header is None:
            return None
        accepted = {}
        for entry in header.decode("latin-1").lower().split(","):
            coding, _, parameters = entry.partition(";")
            accepted[coding.strip()] = parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
        return next((coding for coding in ("gzip", "deflate") if accepted.get(coding)), None)


class Response:
    """One HTTP response.

    Args:
        body: the bytes.
        status: the status.
        content_type: the kind of the body.
        headers: further headers.
    """

    def __init__(
        self,
        body: bytes = b"",
        status: int = 200,
        content_type: bytes = b"application/json",
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.headers = headers or []
        if body:
            self.headers.append((b"content-type", content_type))

    async def send(self, send: Send, request: Request, *, closes: bool) -> None:
        """Send it as the answer to ``request``; with ``closes`` the connection ends after it."""
        headers = [*self.headers, (b"x-request-id", request.request_id.encode("latin-1"))]
        if len(self.body) >= _SMALLEST_COMPRESSED and (coding := request.accepted_coding) is not None:
            self.body = gzip.compress(self.body, 1) if coding == "gzip" else zlib.compress(self.body, 1)
            headers.append((b"content-encoding", coding.encode()))
        headers.append((b"content-length", b"%d" % len(self.body)))
        if closes:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def json_response(document: Any, status: int = 200) -> Response:
    """Return a response that carries JSON."""
    # ASCII alone: a client's text may hold halves of surrogate pairs, which UTF-8 cannot carry.
    return Response(json.dumps(document).encode(), status)


def error_response(error: ServingError) -> Response:
    """Return a refusal in Triton's form."""
    response = json_response({"error": str(error)}, error.http_status)
    if error.retry_after_seconds is not None:
        response.headers.append((b"retry-after", b"%d" % error.retry_after_seconds))
    if error.http_status == 401:
        response.headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, MethodNotAllowedError):
        response.headers.append((b"allow", ", ".join(error.allowed).encode()))
    return response


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body; an empty one for an empty body.

    Raises:
        InvalidRequestError: the body is no JSON object.
    """
    if not body:
        return {}
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"failed to parse the request JSON: {str(error) or 'nested too deeply'}") from None
    if not isinstance(document, dict):
        raise InvalidRequestError("failed to parse the request JSON: it is no object")
    return document


def _decompress(data: bytes, max_bytes: int) -> bytes:
    """Return gzip or zlib data decompressed; it never holds more than ``max_bytes`` of it."""
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: either format, by its first bytes
    try:
        body = stream.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"the body does not decompress ({error}).") from None
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    if not stream.eof:
        raise InvalidRequestError("the compressed body ends too early.")
    return body


def _too_large(max_bytes: int) -> TooLargeError:
    return TooLargeError(f"the body is larger than {max_bytes} bytes, the most this server takes.")
