"""The HTTP side of the server: an ASGI application with the Open Inference Protocol v2 and Triton's extensions."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import numpy.typing as npt

from aps_deploy import __version__
from aps_deploy.errors import ApsError
from aps_deploy.serving.access import Gate, HostNames, refuse_other_sites
from aps_deploy.serving.classify import classification, image_tensors
from aps_deploy.serving.connections import REFUSAL
from aps_deploy.serving.errors import (
    ForbiddenError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    ServingError,
    UnavailableError,
    serving_error_of,
)
from aps_deploy.serving.http_inference import HEADER_LENGTH, Inference, parse_inference
from aps_deploy.serving.http_messages import (
    ClientGoneError,
    Receive,
    Request,
    Response,
    Send,
    error_response,
    json_object,
    json_response,
)
from aps_deploy.serving.http_outputs import inference_response
from aps_deploy.serving.metrics import CONTENT_TYPE, metrics_page
from aps_deploy.serving.model import ServedModel
from aps_deploy.serving.openapi import openapi_document
from aps_deploy.serving.playground.pages import ROUTE, Pages
from aps_deploy.serving.playground.preparing import description, prepared_request
from aps_deploy.serving.registry import Registry
from aps_deploy.serving.request_log import RequestIds, RequestLog
from aps_deploy.serving.settings import ServeSettings
from aps_deploy.serving.tracing import Tracing, run_observer

SERVER_NAME = "aps-deploy"
EXTENSIONS = ("classification", "model_repository", "model_configuration", "binary_tensor_data", "statistics")
"""Triton's extensions that are spoken here; ``model_repository(unload_dependents)`` and the like are not."""

_MODEL_PATH = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[0-9]+))?"
INFER_PATH = rf"{_MODEL_PATH}/infer"
"""Regular expression of the paths of inference requests."""

_CLIENT_CLOSED_REQUEST = 499  # nginx's number for it; nobody receives it, it stands in the log

Handler = Callable[..., Awaitable[Response]]


def server_metadata() -> dict[str, Any]:
    """Return the protocol's server metadata."""
    return {"name": SERVER_NAME, "version": __version__, "extensions": list(EXTENSIONS)}


class HttpApp:
    """The ASGI application.

    Args:
        registry: the models.
        settings: the server's.
        tracing: where the spans of requests go; None where they are not traced.
    """

    def __init__(self, registry: Registry, settings: ServeSettings, tracing: Tracing | None = None) -> None:
        self._registry = registry
        self._settings = settings
        self._tracing = tracing
        self._gate = Gate(settings.token)
        self._names = HostNames(settings.host, settings.allow_hosts, has_token=settings.token is not None)
        self._ids = RequestIds()
        self._log = RequestLog(with_answers=settings.access_log)
        self._num_decoding = 0
        # A decoded image is much larger than its file: no more of them at once than cores to work on them.
        self._decoders = asyncio.Semaphore(os.cpu_count() or 1)
        # Probes carry no token, and are told nothing but yes or no; a browser opens a page without one.
        self._open_to_all: set[Handler] = {self._live, self._ready}
        pictures = _MODEL_PATH.replace("v2", "v1", 1)
        routes: list[tuple[str, str, Handler]] = [
            ("POST", INFER_PATH, self._infer),
            ("POST", r"/v1(?:/models/(?P<name>[^/]+))?/classify", self._classify),
            ("GET", r"/v2/health/live", self._live),
            ("GET", r"/v2/health/ready", self._ready),
            ("GET", r"/v2/?", self._server_metadata),
            ("GET", r"/v2/models/stats", self._all_statistics),
            ("GET", rf"{_MODEL_PATH}/ready", self._model_ready),
            ("GET", rf"{_MODEL_PATH}/config", self._model_config),
            ("GET", rf"{_MODEL_PATH}/stats", self._model_statistics),
            ("GET", _MODEL_PATH, self._model_metadata),
            ("POST", r"/v2/repository/index", self._index),
            ("POST", r"/v2/repository/models/(?P<name>[^/]+)/(?P<change>load|unload)", self._change),
            ("GET", r"/metrics", self._metrics),
            ("GET", r"/openapi\.json", self._openapi),
            ("GET", pictures, self._description),
            ("POST", rf"{pictures}/prepare", self._prepare),
        ]
        if settings.page:
            page = Pages().answer
            self._open_to_all.add(page)
            routes.append(("GET", ROUTE, page))
        self.routes = [(method, re.compile(path), handler) for method, path, handler in routes]

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return  # uvicorn refuses WebSockets where nobody accepts them
        request = self.named(scope, receive)
        refusal: ServingError | None = scope.get("state", {}).get(REFUSAL)
        error, closes = None, self.is_draining or refusal is not None
        try:
            if refusal is not None:
                raise refusal
            response = await self._answer(request)
        except ClientGoneError:
            self.left(request)
            return
        except Exception as failure:
            response, error = self.refused(request, failure)
            closes = closes or response.status == 408  # the rest of the body may never come
        await response.send(send, request, closes=closes)
        self.answered(request, response.status, error)

    @property
    def is_draining(self) -> bool:
        """Whether the server is about to stop, so that connections end with their next answer."""
        return self._registry.is_draining

    def named(self, scope: Mapping[str, Any], receive: Receive) -> Request:
        """Return the request of an ASGI scope, with its ID."""
        given_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        return Request(scope, receive, self._ids.name(given_id), time.monotonic_ns())

    def begin(self, request: Request, body: bytes, name: str, version: str | None) -> Inference:
        """Queue an inference request whose body was read; its client may use the model.

        Raises:
            ServingError: it does not fit the model, or the model has no room for it.
        """
        model = self._registry.find(name, version or "")
        parsed = parse_inference(model, body, request.header(HEADER_LENGTH), self._settings.max_elements)
        deadline = None if parsed.timeout_ns is None else request.arrived_ns + parsed.timeout_ns
        answer = model.submit(
            parsed.tensors, deadline_ns=deadline, arrived_ns=request.arrived_ns, observer=run_observer(request.span)
        )
        return Inference(model, parsed, answer)

    def check_access(self, request: Request) -> None:
        """Do nothing where a request carries the server's token, and does not come from another site's page.

        Raises:
            UnauthenticatedError: it carries none.
            ForbiddenError: it comes from another site's page, and may change something or costs a run; or that page
                pretends to be ours.
        """
        self._gate.check(request.header(b"authorization"))
        self._names.check(request.header(b"host"))
        if request.method == "POST":
            refuse_other_sites(request.header(b"sec-fetch-site"))

    def refused(self, request: Request, error: Exception) -> tuple[Response, str]:
        """Return the answer of a request that failed, and the sentence in it; called where the error is handled."""
        if isinstance(error, ApsError):
            told = serving_error_of(error)
        else:
            told = ServingError(self._log.broken(request.request_id, request.title))
        return error_response(told), str(told)

    def answered(self, request: Request, status: int, error: str | None) -> None:
        """Log a request that got its answer, or was refused, and end its span."""
        trace_id = None
        if request.span is not None:
            request.span.end({"http.response.status_code": status}, error, is_fault=status >= 500)
            trace_id = request.span.trace_id
        self._log.finished(request.request_id, request.title, status, request.arrived_ns, error, trace_id)

    def left(self, request: Request) -> None:
        """Log a request whose client left."""
        self.answered(request, _CLIENT_CLOSED_REQUEST, "the client left")

    def trace_inference(self, request: Request, name: str) -> None:
        """Begin the span of an inference request, where requests are traced."""
        self._trace(request, "/v2/models/{model}/infer", name)

    def _trace(self, request: Request, route: str, model: str) -> None:
        """Begin the span of a request, where requests are traced."""
        if self._tracing is None:
            return
        attributes = {
            "http.request.method": request.method,
            "http.route": route,
            "url.path": request.path,
            "aps.model": model,
            "aps.request_id": request.request_id,
        }
        name = f"{request.method} {route}"
        request.span = self._tracing.begin(name, request.headers, attributes, request.arrived_ns)

    async def _answer(self, request: Request) -> Response:
        allowed = []
        for method, pattern, handler in self.routes:
            match = pattern.fullmatch(request.path)
            if match is None:
                continue
            if method != request.method:
                allowed.append(method)
                continue
            if handler not in self._open_to_all:
                self.check_access(request)
            return await handler(request, **match.groupdict())
        if allowed:
            raise MethodNotAllowedError(f"{request.path} takes {' or '.join(allowed)}, not {request.method}.", allowed)
        raise NotFoundError(f"there is no {request.method} {request.path}.")

    async def _infer(self, request: Request, name: str, version: str | None) -> Response:
        self.trace_inference(request, name)
        inference = self.begin(request, await self._body(request), name, version)
        return inference_response(inference, await request.wait_for(inference.answer))

    async def _classify(self, request: Request, name: str | None) -> Response:
        self._trace(request, "/v1/models/{model}/classify", name or "")
        top_k = _positive(request.query("top_k") or "5", "top_k")
        data = await self._body(request)
        model = self._registry.find(self._only_model() if name is None else name)
        tensors = await self._image_tensors(model, data)
        answer = model.submit(tensors, arrived_ns=request.arrived_ns, observer=run_observer(request.span))
        outputs = await request.wait_for(answer)
        return json_response(classification(model, outputs, top_k=top_k))

    async def _prepare(self, request: Request, name: str, version: str | None) -> Response:
        data = await self._body(request)
        model = self._registry.find(name, version or "")
        return prepared_request(await self._image_tensors(model, data), model)

    async def _description(self, request: Request, name: str, version: str | None) -> Response:
        return json_response(description(self._registry.find(name, version or "")))

    async def _image_tensors(self, model: ServedModel, data: bytes) -> dict[str, npt.NDArray[Any]]:
        if self._num_decoding >= self._settings.max_queue:
            raise UnavailableError(f"{self._num_decoding} images wait to be decoded; try again later.")
        self._num_decoding += 1
        try:
            async with self._decoders:
                return await asyncio.to_thread(image_tensors, model, data, self._settings.max_image_pixels)
        finally:
            self._num_decoding -= 1

    def _only_model(self) -> str:
        names = sorted({model.name for model in self._registry.models()})
        if len(names) != 1:
            raise InvalidRequestError(
                f"name one of the models ({', '.join(names) or 'none is ready'}): POST /v1/models/NAME/classify."
            )
        return names[0]

    async def _live(self, request: Request) -> Response:
        return Response()

    async def _ready(self, request: Request) -> Response:
        return Response(status=200 if self._registry.is_ready else 400)

    async def _server_metadata(self, request: Request) -> Response:
        return json_response(server_metadata())

    async def _model_ready(self, request: Request, name: str, version: str | None) -> Response:
        try:
            self._registry.find_ready(name, version or "")
        except ServingError as error:
            raise InvalidRequestError(str(error)) from None  # 400 for every reason, as Triton
        return Response()

    async def _model_metadata(self, request: Request, name: str, version: str | None) -> Response:
        model = self._registry.find(name, version or "")
        return json_response(model.metadata(self._registry.versions(name)))

    async def _model_config(self, request: Request, name: str, version: str | None) -> Response:
        return json_response(self._registry.find(name, version or "").config_dict())

    async def _model_statistics(self, request: Request, name: str, version: str | None) -> Response:
        return json_response({"model_stats": [model.statistics_dict() for model in self._registry.all(name, version)]})

    async def _all_statistics(self, request: Request) -> Response:
        return json_response({"model_stats": [model.statistics_dict() for model in self._registry.models()]})

    async def _index(self, request: Request) -> Response:
        only_ready = json_object(await self._body(request)).get("ready", False)
        if not isinstance(only_ready, bool):
            raise InvalidRequestError("'ready' must be true or false.")
        return json_response([entry.to_dict() for entry in self._registry.index(only_ready=only_ready)])

    async def _change(self, request: Request, name: str, change: str) -> Response:
        parameters = json_object(await self._body(request)).get("parameters") or {}
        if not isinstance(parameters, dict):
            raise InvalidRequestError("'parameters' must be an object.")
        check_control(self._settings, parameters)
        await (self._registry.load(name) if change == "load" else self._registry.unload(name))
        return Response()

    async def _metrics(self, request: Request) -> Response:
        page = metrics_page(self._registry.models(), is_ready=self._registry.is_ready)
        return Response(page.encode(), content_type=CONTENT_TYPE)

    async def _openapi(self, request: Request) -> Response:
        return json_response(openapi_document())

    async def _body(self, request: Request) -> bytes:
        return await request.body(self._settings.max_body_bytes, self._settings.body_timeout_s)


def check_control(settings: ServeSettings, parameters: Iterable[str]) -> None:
    """Do nothing where clients may load and unload models.

    Raises:
        ForbiddenError: they may not, or the request wants another file or configuration than the repository's.
    """
    if not settings.allow_control:
        raise ForbiddenError("explicit model load / unload is not allowed; start the server with --allow-control.")
    overrides = set(parameters) - {"unload_dependents"}
    if overrides:
        raise ForbiddenError(
            f"models are loaded as the repository has them; {', '.join(sorted(overrides))} is refused."
        )


def _positive(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise InvalidRequestError(f"{name} is {text!r}; it must be a positive number.")
    return int(text)
