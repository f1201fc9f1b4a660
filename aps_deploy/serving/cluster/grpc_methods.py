"""The protocol's gRPC methods as Ray Serve calls them: by name, with a message, on the replica.

Streams are not offered: Ray's front door would hold each of them to one replica.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from aps_deploy.serving.errors import ServingError
from aps_deploy.serving.grpc_inference import Message
from aps_deploy.serving.grpc_service import GrpcService

ADD_SERVICER = f"{__name__}.add_servicer"
"""Where Ray's front door finds what tells it the methods."""


class _Context:
    """What Ray leaves of a call's context: its deadline stays with the front door."""

    def time_remaining(self) -> None:
        """Return None: it is not known."""


def add_servicer(servicer: Any, server: Any) -> None:
    """Tell a gRPC server the protocol's methods."""
    from tritonclient.grpc import service_pb2_grpc

    name_messages()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)


def name_messages() -> None:
    """Let this process find the messages under the name that they have in pickles."""
    from tritonclient.grpc import service_pb2

    sys.modules.setdefault("grpc_service_pb2", service_pb2)


def method(name: str) -> Callable[[Any, Message, Any], Awaitable[Message]]:
    """Return the method of a replica, which has its `GrpcService` in ``grpc``, that Ray calls for this one."""

    async def call(self: Any, request: Message, grpc_context: Any) -> Message:
        import grpc

        async def read() -> Message:
            return request

        service: GrpcService = self.grpc
        try:
            return await service.answer(name, dict(grpc_context.invocation_metadata()), read, _Context())
        except ServingError as error:
            grpc_context.set_code(grpc.StatusCode[error.grpc_status])
            grpc_context.set_details(str(error))
            raise

    call.__name__ = name
    return call
