"""OpenTelemetry traces: a span for every request to a model, and under it its time in the queue and in the run.

Off unless asked for by ``--traces`` or by OpenTelemetry's own environment variables
(opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables); nothing of it is imported then. The context
that a client sends (W3C ``traceparent``, or what ``OTEL_PROPAGATORS`` names) is the parent of the request's span.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from aps_deploy import __version__
from aps_deploy.errors import InputError
from aps_deploy.serving.execution import Execution, RunObserver

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

logger = logging.getLogger(__name__)

_SERVICE_NAME = "aps-deploy"
_INSTALL = 'pip install "aps-deploy[traces]"'
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"

_FLUSH_S = 5.0
"""How long the last spans may take to reach the collector when the server stops."""


class RequestSpan:
    """The span of one request; made by `Tracing.begin`.

    Args:
        span: OpenTelemetry's.
        tracer: makes the spans under it.
        offset_ns: from the monotonic clock, by which the server counts, to nanoseconds since 1970.
    """

    def __init__(self, span: Span, tracer: Tracer, offset_ns: int) -> None:
        self._span = span
        self._tracer = tracer
        self._offset_ns = offset_ns

    @property
    def trace_id(self) -> str:
        """The trace's ID, as 32 hexadecimal digits."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def observer(self) -> RunObserver | None:
        """Return what writes down the run of a request that is queued now; None where the trace is not sampled."""
        if not self._span.is_recording():
            return None
        queued_ns = time.monotonic_ns()

        def observe(execution: Execution) -> None:
            parts = execution.durations
            self._child("queue", queued_ns, execution.started_ns, {})
            attributes = {
                "aps.run.images": execution.num_rows,
                "aps.run.requests": len(execution.works),
                "aps.run.input_us": parts.compute_input // 1000,
                "aps.run.infer_us": parts.compute_infer // 1000,
                "aps.run.output_us": parts.compute_output // 1000,
            }
            total_ns = parts.compute_input + parts.compute_infer + parts.compute_output
            self._child("compute", execution.started_ns, execution.started_ns + total_ns, attributes)

        return observe

    def end(self, attributes: Mapping[str, str | int], error: str | None, *, is_fault: bool) -> None:
        """End the span.

        Args:
            attributes: what is known of the answer.
            error: why there was none; None where the request was answered.
            is_fault: whether that is the server's fault and not the client's.
        """
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attributes(dict(attributes))
        if error is not None and is_fault:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(self._offset_ns + time.monotonic_ns())

    def _child(self, name: str, started_ns: int, ended_ns: int, attributes: dict[str, int]) -> None:
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(self._span)
        start_time = self._offset_ns + started_ns
        child = self._tracer.start_span(name, context, attributes=attributes, start_time=start_time)
        child.end(self._offset_ns + ended_ns)


class Tracing:
    """Makes the spans of requests.

    Args:
        provider: where they go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(_SERVICE_NAME, __version__)

    def begin(
        self, name: str, headers: Mapping[str, str], attributes: Mapping[str, str], arrived_ns: int
    ) -> RequestSpan:
        """Begin the span of a request.

        Args:
            name: the route, without what differs between requests.
            headers: the request's, by their lower-case names.
            attributes: what is known of the request.
            arrived_ns: when it came, by the monotonic clock.
        """
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        offset_ns = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            name,
            extract(headers),
            kind=SpanKind.SERVER,
            attributes=dict(attributes),
            start_time=offset_ns + arrived_ns,
        )
        return RequestSpan(span, self._tracer, offset_ns)

    def close(self) -> None:
        """Send what is left; takes seconds where the collector does not answer."""
        self._provider.shutdown()


def run_observer(span: RequestSpan | None) -> RunObserver | None:
    """Return what writes down the run of a request that is queued now; None where it is not traced."""
    return None if span is None else span.observer()


def open_traces(endpoint: str | None) -> Tracing | None:
    """Return where spans go; None where nobody asked for them.

    Args:
        endpoint: address of an OTLP collector, such as ``http://127.0.0.1:4318``; None asks the environment.

    Raises:
        InputError: an endpoint is given and is no address, or the extra ``traces`` is not installed. What only the
            environment asks for is left out with a warning instead: a cluster may set it for every process.
    """
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise InputError(f"--traces is {endpoint!r}; give a collector's address, such as http://127.0.0.1:4318.")
    if endpoint is None and not _environment_asks():
        return None
    if importlib.util.find_spec("opentelemetry") is None or not _is_installed("opentelemetry.exporter.otlp.proto.http"):
        if endpoint is not None:
            raise InputError(f"OpenTelemetry is not installed; install it with {_INSTALL}.")
        logger.warning("no traces although the environment asks for them: OpenTelemetry is missing (%s)", _INSTALL)
        return None
    return Tracing(_provider(endpoint))


@contextlib.asynccontextmanager
async def traced(endpoint: str | None) -> AsyncIterator[Tracing | None]:
    """Open the traces for the ``with``; at its end send what is left, for a few seconds.

    Raises:
        InputError: see `open_traces`.
    """
    tracing = open_traces(endpoint)
    try:
        yield tracing
    finally:
        if tracing is not None:
            # A thread of its own: the event loop's would be waited for, however long the collector takes.
            closing = threading.Thread(target=tracing.close, name="closing traces", daemon=True)
            closing.start()
            await asyncio.to_thread(closing.join, _FLUSH_S)


def _environment_asks() -> bool:
    """Tell whether OpenTelemetry's variables ask for traces of a kind that is spoken here."""
    environment = {name: value.strip() for name, value in os.environ.items() if name.startswith("OTEL_")}
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").lower()
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return False
    if exporter not in ("", "otlp"):
        logger.warning("no traces: OTEL_TRACES_EXPORTER is %r; spoken here: otlp", exporter)
        return False
    if not exporter and not any(environment.get(name) for name in _ENDPOINTS):
        return False
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), _PROTOCOL)
    if protocol != _PROTOCOL:
        logger.warning("no traces: the OTLP protocol asked for is %r; spoken here: %s", protocol, _PROTOCOL)
        return False
    return True


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def _provider(endpoint: str | None) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = Resource({SERVICE_NAME: _SERVICE_NAME, SERVICE_VERSION: __version__})
    named = Resource.create()  # what the environment says goes first
    has_name = not str(named.attributes[SERVICE_NAME]).startswith("unknown_service")
    resource = own.merge(named) if has_name else named.merge(own)
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    address = None if endpoint is None else f"{endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=address)))
    return provider
