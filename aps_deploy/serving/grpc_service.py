"""The gRPC side of the server: the same answers as `aps_deploy.serving.http_app`, from the stubs of `tritonclient`.

The stubs are not made anew: two copies of the protocol's messages cannot live in one process, and a process that
serves may also be a client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from aps_deploy.errors import ApsError
from aps_deploy.serving.access import Gate
from aps_deploy.serving.errors import BodyTimeoutError, InvalidRequestError, ServingError, serving_error_of
from aps_deploy.serving.grpc_inference import (
    Message,
    fill_response,
    request_deadline_ns,
    request_tensors,
    requested_outputs,
)
from aps_deploy.serving.http_app import check_control, server_metadata
from aps_deploy.serving.registry import Registry
from aps_deploy.serving.request_log import RequestIds, RequestLog
from aps_deploy.serving.settings import ServeSettings

_SERVICE = "inference.GRPCInferenceService"

UNARY_METHODS = (
    *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelConfig"),
    *("ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
)
"""The methods of one message and one answer."""

_MAX_STREAMED = 64
"""Requests of one stream that are read ahead of its answers, so that they can share runs."""

Method = Callable[[Message, Any], Awaitable[Message]]


class GrpcService:
    """The methods of the protocol's service; what is not here (shared memory, traces) answers UNIMPLEMENTED.

    Args:
        registry: the models.
        settings: the server's.
    """

    def __init__(self, registry: Registry, settings: ServeSettings) -> None:
        from tritonclient.grpc import service_pb2

        self._messages = service_pb2
        self._registry = registry
        self._settings = settings
        self._gate = Gate(settings.token)
        self._ids = RequestIds()
        self._log = RequestLog(with_answers=settings.access_log)
        methods: tuple[Method, ...] = (
            *(self._server_live, self._server_ready, self._model_ready, self._server_metadata, self._model_metadata),
            *(self._model_infer, self._model_config, self._model_statistics, self._repository_index),
            *(self._repository_load, self._repository_unload),
        )
        self._methods: dict[str, Method] = dict(zip(UNARY_METHODS, methods, strict=True))

    def handler(self) -> Any:
        """Return the handler to add to a `grpc.aio` server."""
        import grpc

        # As streams of one message, which are the same on the wire: gRPC would read the message of a unary call first,
        # from whoever it is and however long it takes, and only then say that there is a call.
        methods = {
            name: grpc.stream_unary_rpc_method_handler(
                self._guarded(name), None, getattr(self._messages, f"{name}Response").SerializeToString
            )
            for name in UNARY_METHODS
        }
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            None,  # as it came: gRPC would end the stream at a message that it cannot read
            self._messages.ModelStreamInferResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(_SERVICE, methods)

    async def _read(self, name: str, pieces: AsyncIterator[bytes]) -> Message:
        """Return the only message of a call.

        Raises:
            BodyTimeoutError: it does not arrive in time.
            InvalidRequestError: there is none, or it cannot be read.
        """
        seconds = self._settings.body_timeout_s
        try:
            async with asyncio.timeout(seconds):
                data = await anext(pieces)
        except TimeoutError:
            raise BodyTimeoutError(f"the message did not arrive within {seconds:g} s.") from None
        except StopAsyncIteration:
            raise InvalidRequestError("the call carries no message.") from None
        return self._parse(name, data)

    def _parse(self, name: str, data: bytes) -> Message:
        """Return the message in these bytes.

        Raises:
            InvalidRequestError: it cannot be read.
        """
        from google.protobuf.message import DecodeError

        try:
            return getattr(self._messages, f"{name}Request").FromString(data)
        except DecodeError:
            raise InvalidRequestError(f"the message is no {name}Request.") from None

    def _guarded(self, name: str) -> Callable[[AsyncIterator[bytes], Any], Awaitable[Message]]:
        """Return the method behind the token, with errors turned into gRPC's statuses."""
        import grpc

        async def call(pieces: AsyncIterator[bytes], context: Any) -> Message:
            metadata = dict(context.invocation_metadata())
            request_id = self._ids.name(metadata.get("x-request-id"))
            try:
                return await self.answer(name, metadata, lambda: self._read(name, pieces), context, request_id)
            except ServingError as error:
                trailing = (("x-request-id", request_id),)
                await context.abort(grpc.StatusCode[error.grpc_status], str(error), trailing_metadata=trailing)

        return call

    async def answer(
        self,
        name: str,
        metadata: Mapping[str, Any],
        read: Callable[[], Awaitable[Message]],
        context: Any,
        request_id: str | None = None,
    ) -> Message:
        """Answer one unary call, and log it.

        Args:
            name: the method, one of `UNARY_METHODS`.
            metadata: of the call.
            read: returns the message; awaited once the token was seen.
            context: the call's, whose ``time_remaining`` is asked for.
            request_id: the call's ID in the log; None for the one that its metadata gives it, or a new one.

        Raises:
            ServingError: it is refused, or broke.
        """
        started_ns = time.monotonic_ns()
        request_id = request_id or self._ids.name(metadata.get("x-request-id"))
        try:
            if name not in ("ServerLive", "ServerReady"):
                self._gate.check(metadata.get("authorization"))
            response = await self._methods[name](await read(), context)
        except asyncio.CancelledError:
            self._log.finished(request_id, name, "CANCELLED", started_ns, "the client left")
            raise
        except ApsError as refusal:
            error = serving_error_of(refusal)
        except Exception:
            error = ServingError(self._log.broken(request_id, name))
        else:
            self._log.finished(request_id, name, "OK", started_ns, None)
            return response
        self._log.finished(request_id, name, error.grpc_status, started_ns, str(error))
        raise error

    async def _server_live(self, request: Message, context: Any) -> Message:
        return self._messages.ServerLiveResponse(live=True)

    async def _server_ready(self, request: Message, context: Any) -> Message:
        return self._messages.ServerReadyResponse(ready=self._registry.is_ready)

    async def _model_ready(self, request: Message, context: Any) -> Message:
        try:
            self._registry.find_ready(request.name, request.version)
        except ServingError:
            return self._messages.ModelReadyResponse(ready=False)
        return self._messages.ModelReadyResponse(ready=True)

    async def _server_metadata(self, request: Message, context: Any) -> Message:
        return self._messages.ServerMetadataResponse(**server_metadata())

    async def _model_metadata(self, request: Message, context: Any) -> Message:
        model = self._registry.find(request.name, request.version)
        return self._messages.ModelMetadataResponse(**model.metadata(self._registry.versions(request.name)))

    async def _model_config(self, request: Message, context: Any) -> Message:
        return self._messages.ModelConfigResponse(config=self._registry.find(request.name, request.version).config)

    async def _model_statistics(self, request: Message, context: Any) -> Message:
        found = self._registry.all(request.name, request.version) if request.name else self._registry.models()
        return self._messages.ModelStatisticsResponse(model_stats=[model.statistics_dict() for model in found])

    async def _repository_index(self, request: Message, context: Any) -> Message:
        entries = self._registry.index(only_ready=request.ready)
        return self._messages.RepositoryIndexResponse(models=[entry.to_dict() for entry in entries])

    async def _repository_load(self, request: Message, context: Any) -> Message:
        check_control(self._settings, request.parameters)
        await self._registry.load(request.model_name)
        return self._messages.RepositoryModelLoadResponse()

    async def _repository_unload(self, request: Message, context: Any) -> Message:
        check_control(self._settings, request.parameters)
        await self._registry.unload(request.model_name)
        return self._messages.RepositoryModelUnloadResponse()

    async def _model_infer(self, request: Message, context: Any) -> Message:
        arrived_ns = time.monotonic_ns()
        model = self._registry.find(request.model_name, request.model_version)
        tensors = request_tensors(model, request, self._settings.max_elements)
        requested = requested_outputs(request)
        model.check_outputs(requested)
        deadline_ns = request_deadline_ns(request, arrived_ns, context.time_remaining())
        # gRPC cancels this call when the client leaves, and with it the future: the request is dropped.
        outputs = await model.submit(tensors, deadline_ns=deadline_ns, arrived_ns=arrived_ns)
        response = self._messages.ModelInferResponse()
        return fill_response(response, model, request.id, model.select_outputs(outputs, requested))

    async def _stream(self, pieces: AsyncIterator[bytes], context: Any) -> AsyncIterator[Message]:
        """Answer a stream of requests in their order; a refused one gets its sentence and the stream goes on."""
        import grpc

        try:
            self._gate.check(dict(context.invocation_metadata()).get("authorization"))
        except ServingError as error:
            await context.abort(grpc.StatusCode[error.grpc_status], str(error))
        running: asyncio.Queue[asyncio.Task[Message] | None] = asyncio.Queue(_MAX_STREAMED)

        async def read() -> None:
            try:
                async for data in pieces:
                    await running.put(asyncio.create_task(self._streamed(data, context)))
            finally:
                await running.put(None)

        reader = asyncio.create_task(read())
        try:
            while (task := await running.get()) is not None:
                yield await task
        finally:
            reader.cancel()
            while not running.empty():
                left = running.get_nowait()
                if left is not None:
                    left.cancel()

    async def _streamed(self, data: bytes, context: Any) -> Message:
        response = self._messages.ModelStreamInferResponse()
        started_ns, request_id = time.monotonic_ns(), self._ids.name(None)
        error, status, given_id = None, "OK", ""
        try:
            request = self._parse("ModelInfer", data)
            given_id = request.id
            response.infer_response.CopyFrom(await self._model_infer(request, context))
        except ApsError as refusal:
            told = serving_error_of(refusal)
            error, status = str(told), told.grpc_status
        except Exception:
            error, status = self._log.broken(request_id, "ModelStreamInfer"), "INTERNAL"
        if error is not None:
            response.error_message, response.infer_response.id = error, given_id
        self._log.finished(request_id, "ModelStreamInfer", status, started_ns, error)
        return response
