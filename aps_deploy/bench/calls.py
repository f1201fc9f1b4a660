"""What became of one request, whatever the transport, and what a transport offers."""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

Kind = Literal["answered", "refused", "failed"]


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """The end of one request.

    Attributes:
        kind: ``refused`` is the server's "not now" (429, 503, UNAVAILABLE, RESOURCE_EXHAUSTED): the request was never
            run. ``failed`` is everything else that is no answer, a broken connection too.
        content: the answer's bytes; of a refusal or failure, the reason.
        has_retry_after: whether a refusal says when to try again; gRPC has no place for that.
    """

    kind: Kind
    content: bytes
    has_retry_after: bool = False


class Caller(Protocol):
    """One client, which asks one question after the other; it connects when it is first needed, and again."""

    async def ask(self, number: int) -> Reply:
        """Send the payload of that number and return what became of it; never raises for what a server does."""
        ...

    async def close(self) -> None:
        """End the connection."""
        ...
