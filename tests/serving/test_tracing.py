"""OpenTelemetry's spans: request, queue and run, in the trace that the client began, and nothing where nobody asked."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry is not installed (extra 'traces')")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from tritonclient.utils import InferenceServerException

from aps_deploy.errors import InputError
from aps_deploy.serving import tracing as tracing_module
from aps_deploy.serving.model import ServedModel
from aps_deploy.serving.tracing import Tracing, open_traces, traced
from tests.serving.support import CLIENTS, Running, running, tensor
from tests.serving.test_direct_inference import exchange, head_of

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]})
INFER = "/v2/models/grown/infer"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own OpenTelemetry is none of the tests'."""
    for name in ("TRACES_EXPORTER", "SDK_DISABLED", "SERVICE_NAME", "RESOURCE_ATTRIBUTES", "TRACES_SAMPLER"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)
    for name in ("ENDPOINT", "PROTOCOL"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_TRACES_{name}", raising=False)


class Traced:
    """A server and the spans that it ended."""

    def __init__(self, server: Running, exporter: InMemorySpanExporter) -> None:
        self.server = server
        self._exporter = exporter

    def spans(self, count: int) -> list[ReadableSpan]:
        """Return the spans ended so far, in the order of their beginnings, once there are so many."""
        deadline = time.monotonic() + 30
        while len(self._exporter.get_finished_spans()) < count:
            assert time.monotonic() < deadline, "the spans never come"
            time.sleep(0.002)
        found = sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
        assert len(found) == count
        self._exporter.clear()
        return found


@contextlib.contextmanager
def tracing_to_memory(target: Path, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> Iterator[Traced]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False, **arguments)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing_module, "open_traces", lambda endpoint: Tracing(provider))
    with running(target, access_log=True) as server:
        yield Traced(server, exporter)


@pytest.fixture
def recorded(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    with tracing_to_memory(repository, monkeypatch) as recorded:
        yield recorded


def check_family(request: ReadableSpan, queue: ReadableSpan, compute: ReadableSpan) -> None:
    """Check that the queue and the run lie one after the other in the time of the request, and under it."""
    assert (queue.name, compute.name) == ("queue", "compute")
    assert request.context is not None
    for child in (queue, compute):
        assert child.parent is not None and child.parent.span_id == request.context.span_id
        assert child.context is not None and child.context.trace_id == request.context.trace_id
    times = [request.start_time, queue.start_time, queue.end_time, compute.start_time, compute.end_time]
    numbers = [number for number in (*times, request.end_time) if number is not None]
    assert len(numbers) == 6 and numbers == sorted(numbers)


def test_a_request_over_http(recorded: Traced, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aps_deploy.serving")
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=1", "X-Request-Id": "mine"}
    before = time.time_ns()
    assert recorded.server.request("POST", INFER, BODY, headers)[0] == 200
    request, queue, compute = recorded.spans(3)
    check_family(request, queue, compute)
    assert before <= (request.start_time or 0) + 1_000_000 and (request.end_time or 0) <= time.time_ns() + 1_000_000
    assert request.name == "POST /v2/models/{model}/infer" and request.kind is SpanKind.SERVER
    assert request.context is not None and request.parent is not None
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    assert request.context.trace_state.get("vendor") == "1"
    attributes = dict(request.attributes or {})
    assert attributes["aps.request_id"] == "mine" and attributes["aps.model"] == "grown"
    assert attributes["http.response.status_code"] == 200 and attributes["url.path"] == INFER
    assert dict(compute.attributes or {})["aps.run.images"] == 1
    deadline = time.monotonic() + 30
    while not (lines := [record.fields for record in caplog.records if hasattr(record, "fields")]):
        assert time.monotonic() < deadline, "the request is never logged"
        time.sleep(0.002)
    (line,) = lines
    assert (line["request_id"], line["trace_id"]) == ("mine", TRACE)


def test_whole_or_in_pieces_the_spans_are_the_same(recorded: Traced) -> None:
    body = BODY.encode()
    head = head_of(INFER, body, {"traceparent": TRACEPARENT})
    seen = []
    with socket.create_connection(("127.0.0.1", recorded.server.where.port), timeout=60) as connection:
        for pieces in ([head + body], [head, body]):
            assert exchange(connection, pieces)[0] == 200
            request, queue, compute = recorded.spans(3)
            check_family(request, queue, compute)
            seen.append((request.name, dict(request.attributes or {}), request.parent))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("given", [None, "", "00-nonsense-01", "00-" + "0" * 32 + f"-{PARENT}-01"])
def test_without_a_context_a_trace_begins_here(recorded: Traced, given: str | None) -> None:
    headers = {} if given is None else {"traceparent": given}
    assert recorded.server.request("POST", INFER, BODY, headers)[0] == 200
    request, *_ = recorded.spans(3)
    assert request.parent is None and request.context is not None and request.context.trace_id != 0


def test_requests_over_grpc(recorded: Traced) -> None:
    values = [tensor(CLIENTS["grpc"], "x", np.ones((2, 2), np.float32), "FP32")]
    with recorded.server.client("grpc") as client:
        client.infer("grown", values, headers={"traceparent": TRACEPARENT, "x-request-id": "mine"})
        request, queue, compute = recorded.spans(3)
        check_family(request, queue, compute)
        assert request.name == "inference.GRPCInferenceService/ModelInfer" and request.context is not None
        assert f"{request.context.trace_id:032x}" == TRACE
        attributes = dict(request.attributes or {})
        assert (attributes["rpc.grpc.status_code"], attributes["aps.request_id"]) == (0, "mine")
        assert dict(compute.attributes or {})["aps.run.requests"] == 1
        with pytest.raises(InferenceServerException):
            client.infer("nothing", values)
        (refused,) = recorded.spans(1)
        assert dict(refused.attributes or {})["rpc.grpc.status_code"] == 5
        assert refused.status.status_code is StatusCode.UNSET
        answers: list[object] = []
        client.start_stream(lambda result, error: answers.append(error))
        client.async_stream_infer("grown", values)
        names = [span.name for span in recorded.spans(3)]
        assert names[0] == "inference.GRPCInferenceService/ModelStreamInfer" and names[1:] == ["queue", "compute"]
        client.stop_stream()
    assert answers == [None]


def test_what_is_the_clients_fault_and_what_is_the_servers(recorded: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recorded.server.request("POST", "/v2/models/nothing/infer", BODY)[0] == 404
    (request,) = recorded.spans(1)
    assert request.status.status_code is StatusCode.UNSET
    assert dict(request.attributes or {})["http.response.status_code"] == 404

    def broken(*arguments: Any, **named: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(ServedModel, "submit", broken)
    assert recorded.server.request("POST", INFER, BODY)[0] == 500
    (request,) = recorded.spans(1)
    assert request.status.status_code is StatusCode.ERROR and "internal error" in str(request.status.description)


def test_probes_and_pages_are_no_spans(recorded: Traced) -> None:
    for path in ("/v2/health/ready", "/v2/health/live", "/metrics", "/", "/v2/models/grown"):
        assert recorded.server.request("GET", path)[0] == 200
    assert recorded.server.request("POST", INFER, BODY)[0] == 200
    assert [span.name for span in recorded.spans(3)][1:] == ["queue", "compute"]


def test_what_the_client_does_not_sample_is_not_written_down(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = ParentBased(TraceIdRatioBased(1.0))
    with tracing_to_memory(repository, monkeypatch, sampler=sampler) as recorded:
        unsampled = TRACEPARENT.removesuffix("01") + "00"
        assert recorded.server.request("POST", INFER, BODY, {"traceparent": unsampled})[0] == 200
        assert recorded.server.request("POST", INFER, BODY, {"traceparent": TRACEPARENT})[0] == 200
        recorded.spans(3)


def test_off_nothing_is_written_down(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observers: list[object] = []
    submit = ServedModel.submit

    def remember(model: ServedModel, tensors: Any, **arguments: Any) -> Any:
        observers.append(arguments["observer"])
        return submit(model, tensors, **arguments)

    monkeypatch.setattr(ServedModel, "submit", remember)
    with running(repository) as server:
        assert server.request("POST", INFER, BODY, {"traceparent": TRACEPARENT})[0] == 200
    assert observers == [None]


class Collector:
    """An OTLP collector: remembers what is sent to it."""

    def __init__(self) -> None:
        received = self.received = list[tuple[str, ExportTraceServiceRequest]]()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append((self.path, ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


@pytest.mark.parametrize("asked_by", ["option", "variable"])
def test_a_collector_gets_the_spans_before_the_server_ends(
    repository: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch, asked_by: str
) -> None:
    if asked_by == "variable":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "photos")
    with running(repository, traces=collector.url if asked_by == "option" else None) as server:
        assert server.request("POST", INFER, BODY)[0] == 200
    spans, names = list[str](), set[str]()
    for path, message in collector.received:
        assert path == "/v1/traces"
        for group in message.resource_spans:
            names |= {entry.value.string_value for entry in group.resource.attributes if entry.key == "service.name"}
            spans += [span.name for scope in group.scope_spans for span in scope.spans]
    assert sorted(spans) == ["POST /v2/models/{model}/infer", "compute", "queue"]
    assert names == {"photos" if asked_by == "variable" else "aps-deploy"}


class TestWhoAsks:
    @pytest.mark.parametrize(
        "variables",
        [
            {},
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
            {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
            {"OTEL_TRACES_EXPORTER": "zipkin"},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        ],
    )
    def test_nobody(self, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert open_traces(None) is None

    @pytest.mark.parametrize(
        "variables", [{"OTEL_TRACES_EXPORTER": "otlp"}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}]
    )
    def test_the_environment(self, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        opened = open_traces(None)
        assert opened is not None
        opened.close()

    def test_what_is_no_address(self) -> None:
        with pytest.raises(InputError, match="--traces is 'collector:4318'; give a collector's address"):
            open_traces("collector:4318")

    def test_without_the_packages(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setattr(tracing_module.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"aps-deploy\[traces\]"):
            open_traces("http://127.0.0.1:4318")
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
        assert open_traces(None) is None
        assert "OpenTelemetry is missing" in caplog.text

    def test_a_collector_that_never_answers_keeps_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        may_end = threading.Event()
        provider = TracerProvider(shutdown_on_exit=False)
        monkeypatch.setattr(provider, "shutdown", lambda: may_end.wait(60))
        monkeypatch.setattr(tracing_module, "open_traces", lambda endpoint: Tracing(provider))
        monkeypatch.setattr(tracing_module, "_FLUSH_S", 0.05)

        async def serve() -> None:
            async with traced(None):
                pass

        asyncio.run(serve())
        assert not may_end.is_set()
        may_end.set()
