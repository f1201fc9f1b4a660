"""Requests with raw tensors, mutated: lengths, headers, JSON, datatypes, compression; and damaged pictures."""

from __future__ import annotations

import collections
import functools
import gzip
import http.client
import io
import json
import random
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.runtimes import graphs
from tests.serving.fuzz.watching import Watched, check_refusal, nasty_value, seed_of

USUAL, NIGHTLY = 900, 50_000
LENGTH = "Inference-Header-Content-Length"
Sent = tuple[str, bytes, dict[str, str]]


def good_request(source: random.Random) -> tuple[str, dict[str, Any], bytes]:
    """Return path, JSON and raw tensors of a request that can be answered."""
    name = source.choice(["tiny", "tiny", "half", "fixed", "grown"])
    version = {"grown": "/versions/2"}.get(name, source.choice(["", "/versions/1"]))
    rows = 2 if name == "fixed" else source.randint(1, 4)
    values = np.zeros((rows, 2), np.float32) if name == "grown" else graphs.images(rows)
    values = values.astype(np.float16) if name == "half" else values
    datatype = "FP16" if name == "half" else "FP32"
    raw = values.tobytes()
    if source.random() < 0.2:
        raw = source.randbytes(len(raw))  # any bits, those of infinities and of no numbers among them
    entry = {
        "name": "x" if name == "grown" else "images",
        "shape": list(values.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": len(raw)},
    }
    document: dict[str, Any] = {"inputs": [entry], "parameters": {"binary_data_output": source.random() < 0.8}}
    if source.random() < 0.3:
        document["id"] = "seven"
    if source.random() < 0.4 and name != "grown":
        parameters = source.choice([{}, {"binary_data": True}, {"classification": source.choice([1, 3, 10**9])}])
        document["outputs"] = [{"name": "logits", "parameters": parameters}]
    return f"/v2/models/{name}{version}/infer", document, raw


def mutated_json(source: random.Random, document: Any) -> Any:
    """Return a JSON value with one of its members replaced, removed or doubled."""
    places: list[tuple[Any, Any]] = []

    def visit(value: Any) -> None:
        members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, member in members:
            places.append((value, key))
            visit(member)

    visit(document)
    container, key = source.choice(places)
    if source.random() < 0.6:
        container[key] = nasty_value(source)
    elif isinstance(container, list):
        container[:] = source.choice([container * 2, container[:-1], [list(container)]])
    else:
        container[source.choice([str(key) * 2, "binary_data_size", "shared_memory_region", "data"])] = nasty_value(
            source
        )
        if source.random() < 0.5:
            del container[key]
    return document


def mutated_bytes(source: random.Random, data: bytes) -> bytes:
    """Return bytes with a few of them changed, cut off, put in or doubled."""
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        position = source.randrange(len(changed) + 1)
        kind = source.randrange(4)
        if kind == 0 and position < len(changed):
            changed[position] = source.randrange(256)
        elif kind == 1:
            del changed[position : position + source.choice([1, 4, 1000])]
        elif kind == 2:
            changed[position:position] = source.randbytes(source.choice([1, 4, 1000]))
        else:
            changed += changed[position:]
    return bytes(changed)


@functools.cache
def pictures() -> tuple[bytes, ...]:
    """Return a JPEG and a PNG file."""
    encoded = []
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for kind in ("JPEG", "PNG"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        encoded.append(buffer.getvalue())
    return tuple(encoded)


def picture_request(source: random.Random) -> Sent:
    """Return path, body and headers of a request for the classes of a damaged picture."""
    path = source.choice(["/v1/models/tiny/classify", "/v1/models/tiny/classify?top_k=2", "/v1/models/grown/classify"])
    data = source.choice(pictures())
    return path, data if source.random() < 0.2 else mutated_bytes(source, data), {}


def request(source: random.Random) -> Sent:
    """Return path, body and headers of a request with one to three mutations."""
    if source.random() < 0.1:
        return picture_request(source)
    path, document, raw = good_request(source)
    for _ in range(source.choice([0, 1, 1, 2])):
        mutated_json(source, document)
    text = json.dumps(document).encode()
    length, body, headers = str(len(text)), text + raw, {}
    if source.random() < 0.2:
        text = mutated_bytes(source, text)
        body = text + raw
    if source.random() < 0.2:
        body = mutated_bytes(source, body)
    if source.random() < 0.2:
        length = source.choice(["0", "-1", "+5", "1e3", "0x10", "", "9" * 40, str(len(body) + 1), "٣", " 12 "])
    if source.random() < 0.2:
        headers["Content-Encoding"] = coding = source.choice(
            ["gzip", "deflate", "br", "GZIP", "identity", "gzip, gzip"]
        )
        body = gzip.compress(body, 1) if "gzip" in coding.lower() else zlib.compress(body, 1)
        body = mutated_bytes(source, body) if source.random() < 0.4 else body
    if source.random() < 0.2:
        headers["Accept-Encoding"] = source.choice(["gzip", "deflate;q=0.5, gzip;q=0", "*", ";;;,,", "br", "gzip;q=x"])
    if source.random() < 0.95:
        headers[LENGTH] = length
    return path, body, headers


def send(connection: http.client.HTTPConnection, sent: Sent) -> int:
    """Send a request, check that its answer is one of the protocol's, and return the status."""
    path, body, headers = sent
    encoded = {name: value.encode("utf-8") for name, value in headers.items()}
    connection.request("POST", path, body, encoded)  # type: ignore[arg-type]
    response = connection.getresponse()
    data = response.read()
    if response.headers["content-encoding"] is not None:
        data = zlib.decompress(data, wbits=zlib.MAX_WBITS | 32)
    if response.status != 200:
        check_refusal(response.status, data, sent=sent)
        return response.status
    if "classify" in path:
        assert json.loads(data)["scores"]
        return 200
    length = int(response.headers[LENGTH] or len(data))
    document, rest = json.loads(data[:length]), len(data) - length
    sizes = [output.get("parameters", {}).get("binary_data_size", 0) for output in document["outputs"]]
    assert sum(sizes) == rest, (sent, document)
    for output in document["outputs"]:
        assert {"name", "shape", "datatype"} <= set(output)
        assert ("data" in output) != ("parameters" in output)
    return 200


@pytest.mark.parametrize("num_requests", [USUAL, pytest.param(NIGHTLY, marks=pytest.mark.slow)])
def test_mutated_requests(server: Watched, num_requests: int) -> None:
    number = seed_of(num_requests, USUAL)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    statuses: collections.Counter[int] = collections.Counter()

    def send_many(count: int, seed: int) -> None:
        source = random.Random(seed)
        for index in range(count):
            sent = request(source)
            try:
                statuses[send(connection, sent)] += 1
            except Exception as error:
                raise AssertionError(f"request {index} of seed {seed}: {sent!r}"[:4000]) from error

    send_many(num_requests // 10, number + 1)
    with server.keeps_its_size(num_requests):
        send_many(num_requests, number)
        connection.close()
    # Both sides of the border are tried, or nothing is.
    assert statuses[200] > num_requests / 20 and statuses[400] > num_requests / 4, statuses
