"""The unmodified `tritonclient` cannot tell our server from NVIDIA's on one packaged repository.

Same statuses, shapes, types and bytes; what differs on purpose is listed in `DIFFERENT`, with both statuses.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import tritonclient.grpc.aio
import tritonclient.http.aio
from google.protobuf import json_format
from onnx import TensorProto
from tritonclient.utils import InferenceServerException

from aps_deploy.serving.package.settings import PackageSettings
from aps_deploy.serving.package.writing import package
from tests.runtimes import graphs
from tests.serving.package.questions import (
    DIFFERENT,
    INFERENCES,
    OURS_ALONE,
    PLAIN,
    answered,
    outcome,
    questions_about,
    send,
)
from tests.serving.package.triton import MISSING, Triton, triton
from tests.serving.proof import certify
from tests.serving.support import CLIENTS, Running, running

pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

AIO: dict[str, ModuleType] = {"http": tritonclient.http.aio, "grpc": tritonclient.grpc.aio}
TRANSPORTS = sorted(CLIENTS)
Servers = tuple[Triton, Running]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("package")
    models = {
        "tiny": (TensorProto.FLOAT, ("N", 3, 8, 8)),
        "half": (TensorProto.FLOAT16, ("N", 3, 8, 8)),
        "fixed": (TensorProto.FLOAT, (2, 3, 8, 8)),
    }
    for name, (dtype, shape) in models.items():
        file = graphs.save(graphs.classifier(dtype=dtype, shape=shape), folder / f"{name}.onnx")
        certify(file)
        documents = {"compose": True, "kserve": True, "storage_uri": "s3://bucket/models"}  # Triton passes them over
        package(PackageSettings(file, folder / "models", max_batch=4, device="cpu", **documents))
    with triton(folder / "models", folder) as theirs, running(folder / "models") as ours:
        for server in (theirs, ours):  # Triton counts its warm-ups, ours does not: no count is 0 any more
            for name in ("float32", "float16", "a fixed batch"):
                positional, _ = INFERENCES[name].arguments(CLIENTS["http"], "http")
                assert outcome(lambda p=positional, s=server: s.client("http").infer(*p))[0] == "answer"
        yield theirs, ours


def comparable(body: bytes) -> Any:
    """Return a JSON answer without what is a server's own: its name, its times, the words of an error."""
    document = json.loads(body) if body.startswith((b"{", b"[")) else body
    if isinstance(document, dict):
        if "error" in document:
            return list(document)
        if "extensions" in document:
            return sorted(document)
        if "model_stats" in document:
            return [sorted(model) for model in document["model_stats"]]
        if "max_batch_size" in document:
            shown = ("name", "platform", "max_batch_size", "input", "output", "dynamic_batching", "version_policy")
            return {key: document.get(key) for key in shown}
    return document


@pytest.mark.parametrize("name", PLAIN)
def test_plain_requests(servers: Servers, name: str) -> None:
    (status, body), (own_status, own_body) = (send(server.where.port, PLAIN[name]) for server in servers)
    if name in DIFFERENT:
        assert (status, own_status) == DIFFERENT[name], (body, own_body)
        return
    assert status == own_status, (body, own_body)
    if name != "raw outputs":  # bytes behind JSON, compared through the client below
        assert comparable(own_body) == comparable(body)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", INFERENCES)
def test_inference(servers: Servers, transport: str, name: str) -> None:
    positional, named = INFERENCES[name].arguments(CLIENTS[transport], transport)
    outcomes = []
    for server in servers:
        with server.client(transport) as client:  # type: ignore[attr-defined]
            outcomes.append(outcome(lambda client=client: client.infer(*positional, **named)))
    check_outcomes(name, *outcomes)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_inference_by_the_asyncio_client(servers: Servers, transport: str) -> None:
    """All calls at once, as asyncio's clients do it."""

    async def ask(port: int | None) -> list[tuple[str, Any]]:
        module = AIO[transport]
        async with module.InferenceServerClient(f"127.0.0.1:{port}") as client:

            async def one(name: str) -> tuple[str, Any]:
                positional, named = INFERENCES[name].arguments(module, transport)
                try:
                    return "answer", answered(await client.infer(*positional, **named))
                except InferenceServerException as error:
                    return "refusal", error.status()

            return list(await asyncio.gather(*map(one, INFERENCES)))

    theirs, ours = (
        asyncio.run(ask(server.where.port if transport == "http" else server.where.grpc_port)) for server in servers
    )
    for name, answer, own in zip(INFERENCES, theirs, ours, strict=True):
        check_outcomes(name, answer, own)


def check_outcomes(name: str, theirs: tuple[str, Any], ours: tuple[str, Any]) -> None:
    if name in OURS_ALONE:
        assert theirs[0] == "refusal" and theirs[1] in OURS_ALONE[name].split() and ours[0] == "answer"
    else:
        assert ours == theirs, name


def facts(client: Any) -> dict[str, Any]:
    """Return what a server says of itself and its models."""
    found: dict[str, Any] = {}
    for name, ask in questions_about(client):
        try:
            found[name] = plain(ask())
        except InferenceServerException as error:
            found[name] = error.status()
    return found


def plain(answer: Any) -> Any:
    """Return an answer of either transport without what is a server's own."""
    if hasattr(answer, "DESCRIPTOR"):
        answer = json_format.MessageToDict(answer, preserving_proto_field_name=True)
        answer = answer.get("config", answer)
    return comparable(json.dumps(answer).encode()) if isinstance(answer, dict | list) else answer


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_facts(servers: Servers, transport: str) -> None:
    theirs, ours = (facts(server.client(transport)) for server in servers)
    for name in theirs:
        assert ours[name] == theirs[name], name


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_statistics_count_alike(servers: Servers, transport: str) -> None:
    """Three images, two images and a refusal: the same numbers are added on both sides."""

    def counts(client: Any) -> list[int]:
        answer = client.get_inference_statistics("half")
        document: Any = (
            answer if isinstance(answer, dict) else json_format.MessageToDict(answer, preserving_proto_field_name=True)
        )
        (model,) = document["model_stats"]
        success, batches = model["inference_stats"]["success"], model.get("batch_stats", [])
        sizes = {int(entry["batch_size"]): int(entry["compute_infer"]["count"]) for entry in batches}
        numbers = [
            int(model.get("inference_count", 0)),
            int(model.get("execution_count", 0)),
            int(success.get("count", 0)),
        ]
        return [*numbers, sizes.get(3, 0), sizes.get(2, 0)]

    wanted = [5, 2, 2, 1, 1]
    added = []
    for server in servers:
        with server.client(transport) as client:  # type: ignore[attr-defined]
            before = counts(client)
            for shape in ((3, 3, 8, 8), (2, 3, 8, 8), (9, 3, 8, 8)):
                question = type(INFERENCES["float16"])("half", shape, "FP16")
                positional, named = question.arguments(CLIENTS[transport], transport)
                outcome(lambda client=client, p=positional, n=named: client.infer(*p, **n))
            grown: list[int] = []
            deadline = time.monotonic() + 30
            while grown != wanted and time.monotonic() < deadline:  # Triton counts a request after it has answered it
                grown = [after - old for after, old in zip(counts(client), before, strict=True)]
            added.append(grown)
    assert added == [wanted, wanted]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_compression(servers: Servers, transport: str, algorithm: str) -> None:
    names = ("request_compression_algorithm", "response_compression_algorithm", "compression_algorithm")
    options = {name: algorithm for name in (names[:2] if transport == "http" else names[2:])}
    positional, _ = INFERENCES["float32"].arguments(CLIENTS[transport], transport)
    outcomes = []
    for server in servers:
        with server.client(transport) as client:  # type: ignore[attr-defined]
            outcomes.append(outcome(lambda client=client: client.infer(*positional, **options)))
    assert outcomes[0] == outcomes[1] and outcomes[0][0] == "answer"


def streamed(client: Any, questions: list[str]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    def received(result: Any, error: Any) -> None:
        found.append(("answer", answered(result)) if error is None else ("refusal", None))

    client.start_stream(received)
    for name in questions:
        positional, named = INFERENCES[name].arguments(CLIENTS["grpc"], "grpc")
        client.async_stream_infer(*positional, **{**named, "request_id": name})
    client.stop_stream()
    return sorted(found, key=lambda entry: (entry[0], str(entry[1])))


def test_a_stream(servers: Servers) -> None:
    questions = ["float32", "another input", "float16", "no model", "three classes as JSON"]
    theirs, ours = (streamed(server.client("grpc"), questions) for server in servers)
    assert ours == theirs and len(ours) == 5


def test_asynchronous_calls(servers: Servers) -> None:
    positional, named = INFERENCES["float32"].arguments(CLIENTS["http"], "http")
    calls: list[Callable[[], Any]] = []
    for server in servers:
        client: Any = server.client("http")
        pending = [client.async_infer(*positional, **named) for _ in range(4)]
        calls.append(lambda pending=pending: [outcome(each.get_result) for each in pending])
    theirs, ours = (call() for call in calls)
    assert theirs == ours and theirs[0][0] == "answer"
