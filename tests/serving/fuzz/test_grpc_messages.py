"""gRPC messages, mutated field by field and byte by byte, to every method, unary and streamed."""

from __future__ import annotations

import collections
import random
import socket
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from tests.runtimes import graphs
from tests.serving.fuzz.test_binary_requests import mutated_bytes
from tests.serving.fuzz.watching import Watched, seed_of

USUAL, NIGHTLY = 300, 15_000
METHODS = [
    *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics"),
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "Nothing"),
]
ALLOWED = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "UNIMPLEMENTED",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
}


def inference(source: random.Random) -> Any:
    """Return an inference request with up to three fields that are wrong."""
    images = graphs.images(source.randint(1, 3))
    request = service_pb2.ModelInferRequest(model_name="tiny", id="seven")
    entry = request.inputs.add(name="images", datatype="FP32", shape=images.shape)
    if source.random() < 0.7:
        request.raw_input_contents.append(images.tobytes())
    else:
        entry.contents.fp32_contents.extend(images.ravel().tolist())
    for _ in range(source.choice([0, 1, 1, 2, 3])):
        spoil(source, request, entry)
    return request


def spoil(source: random.Random, request: Any, entry: Any) -> None:
    """Make one field wrong."""
    number = source.choice([-1, 0, 1, 7, 2**31, 2**62, -(2**63), 2**63 - 1])
    word = source.choice(["", "nothing", "../etc", "\x00", "ä" * 100, "FP64", "BYTES", "INT64", "BOOL", "9" * 40])
    kind = source.randrange(11)
    if kind == 0:
        request.model_name = word
    elif kind == 1:
        request.model_version = source.choice([word, "1", "-1", "01"])
    elif kind == 2:
        entry.name = word
    elif kind == 3:
        entry.datatype = word
    elif kind == 4:
        entry.shape[source.randrange(len(entry.shape))] = number
    elif kind == 5:
        entry.shape.extend([number] * source.choice([1, 40]))
    elif kind == 6:
        request.raw_input_contents.append(source.randbytes(source.choice([0, 3, 768])))
    elif kind == 7:
        request.parameters[source.choice(["timeout", "priority", "sequence_id", word])].int64_param = number
    elif kind == 8:
        entry.contents.int_contents.extend([1, 2, 3])
        entry.contents.bytes_contents.append(b"\xff")
    elif kind == 9:
        output = request.outputs.add(name=source.choice(["logits", "logits", word]))
        output.parameters[source.choice(["classification", "shared_memory_region"])].int64_param = number
    else:
        request.inputs.add(name=source.choice(["images", word]), datatype="FP32", shape=[1, 3, 8, 8])


def message(source: random.Random) -> tuple[str, bytes]:
    """Return a method's name and the bytes of what is sent to it."""
    name = "ModelInfer"
    if source.random() < 0.7:
        data: bytes = inference(source).SerializeToString()
    else:
        name = source.choice(METHODS)
        fields = service_pb2.ModelMetadataRequest(name=source.choice(["tiny", "nothing", ""]), version="1")
        data = fields.SerializeToString()
    return name, mutated_bytes(source, data) if source.random() < 0.3 else data


def call(channel: grpc.Channel, name: str, data: bytes) -> str:
    """Send a message and return the name of the status; its words must say something where it is no success."""
    try:
        channel.unary_unary(f"/inference.GRPCInferenceService/{name}")(data, timeout=30)
    except grpc.RpcError as error:
        assert error.details() and "Traceback" not in error.details(), (name, data)
        return str(error.code().name)
    return "OK"


def stream(channel: grpc.Channel, sent: list[bytes]) -> str:
    """Send messages in one stream and return the status of the stream; each answered one says yes or why not."""
    method = channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
    )
    try:
        answers = list(method(iter(sent), timeout=30))
    except grpc.RpcError as error:
        assert error.details() and "Traceback" not in error.details(), sent
        return str(error.code().name)
    assert len(answers) == len(sent)
    assert all(bool(answer.error_message) != bool(answer.infer_response.outputs) for answer in answers)
    return "OK"


def test_a_stream_goes_on_after_a_message_that_cannot_be_read(server: Watched) -> None:
    good = inference(random.Random(0)).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        assert stream(channel, [good, b"\xff", good]) == "OK"


def rude(port: int, data: bytes) -> None:
    """Send bytes that are no HTTP/2, and leave."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(data)


@pytest.mark.parametrize("num_requests", [USUAL, pytest.param(NIGHTLY, marks=pytest.mark.slow)])
def test_mutated_messages(server: Watched, num_requests: int) -> None:
    number = seed_of(num_requests, USUAL)
    statuses: collections.Counter[str] = collections.Counter()

    def send_many(channel: grpc.Channel, count: int, seed: int) -> None:
        source = random.Random(seed)
        for index in range(count):
            name, data = message(source)
            if source.random() < 0.1:
                sent = [message(source)[1] for _ in range(source.randint(1, 4))]
                status = stream(channel, sent)
            elif source.random() < 0.05:
                rude(server.grpc_port, mutated_bytes(source, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + data))
                status = "OK"
            else:
                status = call(channel, name, data)
            statuses[status] += 1
            assert status in ALLOWED, f"message {index} of seed {seed}: {status} for {name} {data!r}"

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        send_many(channel, num_requests // 10, number + 1)
        with server.keeps_its_size(num_requests):
            send_many(channel, num_requests, number)
    assert statuses["OK"] > num_requests / 10 and statuses["INVALID_ARGUMENT"] > num_requests / 10, statuses
