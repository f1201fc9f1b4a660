"""The server's log: one JSON object per line, each request under its ID."""

from __future__ import annotations

import itertools
import json
import logging
import secrets
import sys
import time
from datetime import UTC, datetime

logger = logging.getLogger(__name__)

_MAX_ID_LENGTH = 128


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, message, and the fields given as ``extra={"fields": ...}``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_as_json() -> None:
    """Write everything this package logs, from INFO on, to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    package = logging.getLogger("aps_deploy")
    package.setLevel(min(package.level or logging.INFO, logging.INFO))


class RequestIds:
    """Names requests: the ID the client sent where it is fit to print, else a new one."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    def name(self, given: bytes | str | None) -> str:
        """Return the ID of a request."""
        text = given.decode("latin-1") if isinstance(given, bytes) else given
        if text and len(text) <= _MAX_ID_LENGTH and text.isascii() and text.isprintable():
            return text
        return f"{self._prefix}-{next(self._numbers)}"


class RequestLog:
    """Logs what became of requests.

    Args:
        with_answers: whether answered requests are logged, not only refused and failed ones.
    """

    def __init__(self, *, with_answers: bool) -> None:
        self._with_answers = with_answers

    def finished(
        self,
        request_id: str,
        what: str,
        status: int | str,
        started_ns: int,
        error: str | None,
        trace_id: str | None = None,
    ) -> None:
        """Log one request.

        Args:
            request_id: its ID.
            what: method and path, or the gRPC method.
            status: HTTP status, or the name of the gRPC status.
            started_ns: when it came, by the monotonic clock.
            error: why it was refused; None where it was answered.
            trace_id: its trace; None where it is not traced.
        """
        if error is None and not self._with_answers:
            return
        fields = {
            "request_id": request_id,
            "request": what,
            "status": status,
            "duration_ms": round((time.monotonic_ns() - started_ns) / 1e6, 3),
        }
        if trace_id is not None:
            fields["trace_id"] = trace_id
        if error is not None:
            fields["error"] = error
        logger.info("answered" if error is None else "refused", extra={"fields": fields})

    def broken(self, request_id: str, what: str) -> str:
        """Log the exception being handled, which is a bug, and return what the client is told."""
        logger.exception("a request failed", extra={"fields": {"request_id": request_id, "request": what}})
        return f"internal error; the server's log has the details under request ID {request_id}."
