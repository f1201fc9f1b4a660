"""What a client is told when its request is not answered: one sentence, an HTTP status and a gRPC status.

The pairs are Triton's, so that a client's handling of one server fits the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from aps_deploy.errors import ApsError, InputError


class ServingError(ApsError):
    """A request that is not answered.

    Attributes:
        http_status: status of the HTTP response.
        grpc_status: name of the member of ``grpc.StatusCode``.
        retry_after_seconds: how long a client should wait before it tries again; None where that is of no use.
    """

    http_status: int = 500
    grpc_status: str = "INTERNAL"
    retry_after_seconds: int | None = None


class InvalidRequestError(ServingError):
    """The request cannot be understood, or does not fit the model."""

    http_status = 400
    grpc_status = "INVALID_ARGUMENT"


class UnauthenticatedError(ServingError):
    """The request carries no token, or a wrong one."""

    http_status = 401
    grpc_status = "UNAUTHENTICATED"


class ForbiddenError(ServingError):
    """The server was not started with what the request needs."""

    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class NotFoundError(ServingError):
    """There is no such route, model or version."""

    http_status = 404
    grpc_status = "NOT_FOUND"


class MethodNotAllowedError(ServingError):
    """The route exists, and takes another method.

    Args:
        message: the sentence.
        allowed: the methods that it takes.
    """

    http_status = 405
    grpc_status = "UNIMPLEMENTED"

    def __init__(self, message: str, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = tuple(allowed)


class BodyTimeoutError(ServingError):
    """The body did not arrive in time."""

    http_status = 408
    grpc_status = "DEADLINE_EXCEEDED"


class HeadTimeoutError(BodyTimeoutError):
    """The headers did not arrive in time."""


class TooLargeError(ServingError):
    """The request is larger than a limit of the server."""

    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"


class UnsupportedContentError(ServingError):
    """The body is of a kind, or compressed in a way, that is not read here."""

    http_status = 415
    grpc_status = "INVALID_ARGUMENT"


class HeadTooLargeError(ServingError):
    """The first line and the headers are larger than a limit of the server."""

    http_status = 431
    grpc_status = "RESOURCE_EXHAUSTED"


class UnsupportedError(ServingError):
    """The protocol has this, and this server does not."""

    http_status = 501
    grpc_status = "UNIMPLEMENTED"


class UnavailableError(ServingError):
    """Not now: the model is not ready, the queue is full, or the request waited past its deadline."""

    http_status = 503
    grpc_status = "UNAVAILABLE"
    retry_after_seconds = 1


def serving_error_of(error: ApsError) -> ServingError:
    """Return an error of the library as what a client is told."""
    if isinstance(error, ServingError):
        return error
    return InvalidRequestError(str(error)) if isinstance(error, InputError) else ServingError(str(error))
