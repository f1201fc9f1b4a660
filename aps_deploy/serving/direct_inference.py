"""Inference requests that came whole, answered by the connection's own callbacks: no task, and one write.

Two tasks, an event, a time limit for the body and two writes to the socket are more work for an event loop than a
small network is, and a request whose body came with its head needs none of them. Everything else goes the way of
`HttpApp`, which also does the work here; so both ways answer alike.
"""

from __future__ import annotations

import asyncio
import functools
import http
import re
from typing import TYPE_CHECKING, Any

from aps_deploy.serving.execution import Outputs
from aps_deploy.serving.http_app import INFER_PATH, HttpApp
from aps_deploy.serving.http_inference import Inference
from aps_deploy.serving.http_messages import Request, Response
from aps_deploy.serving.http_outputs import inference_response

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}


class DirectInference:
    """Answers whole requests.

    Args:
        app: the application whose requests they are.
        max_body_bytes: largest body; larger ones are the application's to refuse.
    """

    def __init__(self, app: HttpApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._match = functools.lru_cache(maxsize=256)(re.compile(INFER_PATH).fullmatch)

    def begin(self, cycle: RequestResponseCycle) -> asyncio.Future[Outputs] | None:
        """Begin to answer a request; return the future of its outputs, to be cancelled if its client leaves.

        Args:
            cycle: uvicorn's request, whose body is there.

        Returns:
            None where the application must answer; a future that is done where the request was refused.
        """
        scope = cycle.scope
        match = self._match(scope["path"]) if scope["method"] == "POST" else None
        if match is None or len(cycle.body) > self._max_body_bytes:
            return None
        receive: Any = cycle.receive  # uvicorn's types of messages are its own
        request = self._app.named(scope, receive)
        if request.header(b"content-encoding") is not None:
            return None
        try:
            self._app.check_access(request)
            self._app.trace_inference(request, match["name"])
            inference = self._app.begin(request, bytes(cycle.body), match["name"], match["version"])
        except Exception as failure:
            self._answer(cycle, request, *self._app.refused(request, failure))
            refused: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
            refused.cancel()
            return refused
        inference.answer.add_done_callback(lambda _: self._finish(cycle, request, inference))
        return inference.answer

    def _finish(self, cycle: RequestResponseCycle, request: Request, inference: Inference) -> None:
        if cycle.disconnected or inference.answer.cancelled():
            self._app.left(request)
            return
        error = None
        try:
            response = inference_response(inference, inference.answer.result())
        except Exception as failure:
            response, error = self._app.refused(request, failure)
        self._answer(cycle, request, response, error)

    def _answer(self, cycle: RequestResponseCycle, request: Request, response: Response, error: str | None) -> None:
        """Do what uvicorn does to send a response and to end its request."""
        closes = self._app.is_draining or not cycle.keep_alive
        headers = [*cycle.default_headers, *response.finish(request, closes=closes)]
        lines = [b"%b: %b\r\n" % header for header in headers]
        cycle.transport.write(b"".join([_STATUS_LINES[response.status], *lines, b"\r\n", response.body]))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if closes:
            cycle.transport.close()
        cycle.on_response()
        self._app.answered(request, response.status, error)
