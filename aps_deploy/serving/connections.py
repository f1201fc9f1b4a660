"""HTTP connections with limits: how many there may be, how long and how large a request's head, how slow a reader.

uvicorn's own protocol has none of them but a number of connections, which refuses probes as well. Bodies are limited
where they are read, in `aps_deploy.serving.http_messages`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import http
import json
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from aps_deploy.serving.errors import (
    HeadTimeoutError,
    HeadTooLargeError,
    InvalidRequestError,
    ServingError,
    UnavailableError,
)

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as _Protocol
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from aps_deploy.serving.direct_inference import DirectInference
    from aps_deploy.serving.execution import Outputs
else:
    _Protocol = object  # uvicorn is an extra; `protocol_class` puts its class behind this one

logger = logging.getLogger(__name__)

REFUSAL = "aps_deploy.refusal"
"""Key in the state of an ASGI scope: the error with which the request is to be answered, unread."""

PROBES = (b"/v2/health/live", b"/v2/health/ready")
"""Answered on a full server, too: a probe that finds no connection would have a busy server killed."""

NUM_SPARE = 32
"""Connections beyond the most that are accepted, to be told so; what comes after them is closed without a word."""

_MAX_PIPELINED = 128
"""Requests of one connection that may wait for the answer before theirs; uvicorn would take any number of them."""


@dataclasses.dataclass(frozen=True)
class ConnectionLimits:
    """What one client, or many, may cost.

    Attributes:
        max_connections: connections that are served at once.
        max_head_bytes: most bytes of a request's first line and headers, and again of those behind its body; what is
            read before that is noticed is at most one read of the event loop more.
        head_timeout_s: how long they may take to arrive, and a body that nobody wants.
        send_timeout_s: how long a response may wait for a client that does not read.
    """

    max_connections: int
    max_head_bytes: int
    head_timeout_s: float
    send_timeout_s: float


class LimitedConnection(_Protocol):
    """One connection; uvicorn's protocol is its other base class, see `protocol_class`."""

    limits: ConnectionLimits
    direct: DirectInference

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._is_spare = False
        self._is_in_head = False
        self._num_steps = 0  # heads and bodies that ended
        self._unfinished_bytes = 0  # read of a head, or of trailers, without its end
        self._trailer_bytes = 0
        self._has_body = False  # whether the last bytes had any in them
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._is_reading = False
        self._begun: tuple[RequestResponseCycle, Any] | None = None  # in the bytes that are being read
        self._direct_answer: asyncio.Future[Outputs] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and wait for its first request."""
        others = len(self.connections)
        super().connection_made(transport)
        if others >= self.limits.max_connections + NUM_SPARE:
            transport.abort()
            return
        self._is_spare = others >= self.limits.max_connections
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        self._stop_head_timer()
        self._stop_send_timer()
        self._give_up_answers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; from a head's first byte on the clock runs, however many bytes keep coming."""
        num_steps, self._has_body = self._num_steps, False
        self._is_reading = True
        super().data_received(data)
        self._is_reading = False
        self._start_begun()
        if self.transport.is_closing():
            return
        progresses = self._num_steps > num_steps
        if not (progresses or self._has_body):
            self._unfinished_bytes += len(data)
            if self._unfinished_bytes > self.limits.max_head_bytes:
                self._end_with(self._head_too_large())
                return
        # Neither a head nor a body that somebody waits for: empty lines, or what follows an answer given early.
        if self._is_in_head or not (progresses or self._is_answering):
            self._start_head_timer()
        else:
            self._stop_head_timer()

    def on_message_begin(self) -> None:
        """Note that a head begins."""
        super().on_message_begin()
        self._is_in_head = True
        self._unfinished_bytes = self._trailer_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those behind a body are in no other count."""
        super().on_header(name, value)
        if not self._is_in_head:
            self._trailer_bytes += len(name) + len(value) + 4
            if self._trailer_bytes > self.limits.max_head_bytes:
                raise self._head_too_large()  # ends the reading

    def on_headers_complete(self) -> None:
        """Hand the request on, with the reason why it is refused where it is."""
        self._is_in_head = False
        self._num_steps += 1
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise InvalidRequestError(f"more than {_MAX_PIPELINED} requests were sent ahead.")  # ends the reading
        size = len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])
        if size > self.limits.max_head_bytes:
            self.scope["state"][REFUSAL] = self._head_too_large()
        elif self._is_spare and self.url.partition(b"?")[0] not in PROBES:
            self.scope["state"][REFUSAL] = UnavailableError(
                f"this server has {self.limits.max_connections} connections, its most; try again later."
            )
        super().on_headers_complete()
        self._unanswered.append(self.cycle)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start a request; one whose head was just read, when all is read that came with it."""
        if self._is_reading:
            self._begun = (cycle, app)
        else:
            super()._start_asgi_task(cycle, app)

    def _start_begun(self) -> None:
        if self._begun is None:
            return
        (cycle, app), self._begun = self._begun, None
        came_whole = not (cycle.more_body or cycle.waiting_for_100_continue or self.transport.is_closing())
        if came_whole and not self.flow.write_paused and REFUSAL not in cycle.scope["state"]:
            self._direct_answer = self.direct.begin(cycle)
            if self._direct_answer is not None:
                return
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._has_body = True
        self._unfinished_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a body ended."""
        self._num_steps += 1
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the client to read the last answer."""
        if self._unanswered:
            self._unanswered.popleft()
        self._direct_answer = None  # it holds the outputs
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()  # enough was sent ahead already
        if self.transport.is_closing():
            self._start_send_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the form of every other error."""
        self._end_with(ServingError(msg), status=400)

    def pause_writing(self) -> None:
        """Give a client that does not read its answer some time, and no more."""
        super().pause_writing()
        self._start_send_timer()

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        self._stop_send_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, at once where its client never read the last answer."""
        if self.transport.get_write_buffer_size():
            self._abort()
        super().timeout_keep_alive_handler()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._head_timed_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        self._head_timer = None
        if self._is_answering:
            self._start_head_timer()  # the request before this one takes its time, which is not the client's fault
        elif self._is_in_head:
            seconds = self.limits.head_timeout_s
            self._end_with(HeadTimeoutError(f"the request's headers did not arrive within {seconds:g} s."))
        else:
            self.transport.close()
            self._start_send_timer()

    def _head_too_large(self) -> HeadTooLargeError:
        return HeadTooLargeError(
            f"the request's headers are larger than {self.limits.max_head_bytes} bytes, the most this server takes."
        )

    def _end_with(self, error: ServingError, *, status: int | None = None) -> None:
        """Answer a request that never became one, where no answer is half written, and close."""
        number = status or error.http_status
        if not self._is_answering:
            body = json.dumps({"error": str(error)}).encode()
            phrase = http.HTTPStatus(number).phrase
            head = f"HTTP/1.1 {number} {phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
        logger.info("refused", extra={"fields": {"status": number, "error": str(error)}})
        self._stop_head_timer()
        self.transport.close()
        self._start_send_timer()

    def _abort(self) -> None:
        self._give_up_answers()
        self.transport.abort()

    def _give_up_answers(self) -> None:
        # uvicorn tells only the last of several requests that its client is gone.
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        self._unanswered.clear()
        if self._direct_answer is not None:
            self._direct_answer.cancel()

    def _start_send_timer(self) -> None:
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self.limits.send_timeout_s, self._abort)

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None


def protocol_class(limits: ConnectionLimits, direct: DirectInference) -> type[asyncio.Protocol]:
    """Return the protocol for `uvicorn.Config`, with these limits, and with what answers whole inference requests."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    return type("Connection", (LimitedConnection, HttpToolsProtocol), {"limits": limits, "direct": direct})
