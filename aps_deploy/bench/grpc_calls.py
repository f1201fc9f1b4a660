"""Requests over gRPC for measuring: the messages are made once, and answers are compared as the bytes they are."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from aps_deploy.bench.calls import Kind, Reply
from aps_deploy.bench.payloads import Payload
from aps_deploy.bench.target import Address, bearer
from aps_deploy.errors import InputError

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_REFUSALS = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def require_grpc() -> None:
    """Do nothing where gRPC is installed.

    Raises:
        InputError: it is not.
    """
    for module, package in (("grpc", "grpcio"), ("tritonclient", "tritonclient")):
        if importlib.util.find_spec(module) is None:
            raise InputError(f'{package} is not installed; grpc:// needs pip install "aps-deploy[serve]".')


def grpc_requests(address: Address, payloads: Sequence[Payload]) -> list[bytes]:
    """Return the bytes of every request's message."""
    from tritonclient.grpc import service_pb2

    requests = []
    for payload in payloads:
        message = service_pb2.ModelInferRequest(model_name=address.model, model_version=address.version or "")
        for entry in payload.inputs:
            message.inputs.add(name=entry.name, datatype=entry.datatype, shape=entry.shape)
        message.raw_input_contents.extend(payload.tensors)
        requests.append(message.SerializeToString(deterministic=True))
    return requests


class GrpcCaller:
    """A client with a channel of its own; see `aps_deploy.bench.calls.Caller`.

    Args:
        address: the server.
        requests: from `grpc_requests`.
        timeout_s: how long an answer may take.
        token: the bearer token; None for none.
    """

    def __init__(self, address: Address, requests: Sequence[bytes], timeout_s: float, token: str | None) -> None:
        import grpc

        self._requests = requests
        self._timeout_s = timeout_s
        self._metadata = [(name.lower(), value) for name, value in bearer(token).items()]
        # Without its own pool all clients of a process would share one connection.
        options = [*_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(address.authority, options=options)
        self._call: Any = self._channel.unary_unary(_METHOD)  # without serialisers: bytes in, bytes out
        self._error = grpc.RpcError

    async def ask(self, number: int) -> Reply:
        """Send one request and return what became of it."""
        try:
            content = await self._call(self._requests[number], timeout=self._timeout_s, metadata=self._metadata)
        except self._error as error:
            status = error.code().name
            # A server that is gone is UNAVAILABLE as well, and says so by other words than a server that is busy.
            is_gone = status == "UNAVAILABLE" and ("connect" in error.details() or "Socket closed" in error.details())
            kind: Kind = "refused" if status in _REFUSALS and not is_gone else "failed"
            return Reply(kind, f"{status}: {error.details()}".encode())
        return Reply("answered", content)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
