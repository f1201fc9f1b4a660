"""Requests as curl or a hostile client would send them: formats, limits and refusals, without `tritonclient`."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.runtimes import graphs
from tests.serving.support import Running, float_list, running

INFER = "/v2/models/tiny/infer"
BINARY = "Inference-Header-Content-Length"
TOLERANCE = 1e-4


def document(images: Any, **changes: Any) -> dict[str, Any]:
    """Return a JSON request for images; keyword arguments replace fields of its input."""
    entry = {"name": "images", "shape": list(images.shape), "datatype": "FP32", "data": float_list(images)}
    return {"inputs": [{**entry, **changes}]}


def binary(images: Any, *, extra: bytes = b"", **parameters: Any) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a request with a raw tensor."""
    data = images.tobytes()
    entry = {
        "name": "images",
        "shape": list(images.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    header = json.dumps({"inputs": [entry], "parameters": parameters}).encode()
    return header + data + extra, {BINARY: str(len(header))}


class TestFormats:
    def test_nested_and_flat_lists(self, server: Running) -> None:
        images = graphs.images(2)
        for data in (float_list(images), images.astype(float).tolist()):
            status, answer = server.json("POST", INFER, document(images, data=data))
            assert status == 200
            logits = next(output for output in answer["outputs"] if output["name"] == "logits")
            assert (logits["datatype"], logits["shape"]) == ("FP32", [2, 5])
            np.testing.assert_allclose(np.reshape(logits["data"], (2, 5)), graphs.expected(images)[0], atol=TOLERANCE)

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    def test_compressed_bodies(self, server: Running, coding: str) -> None:
        body, headers = binary(graphs.images(3))
        packed = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
        assert server.request("POST", INFER, packed, {**headers, "Content-Encoding": coding})[0] == 200

    def test_compressed_responses_are_those_the_client_takes(self, server: Running) -> None:
        for accepted, coding in (("gzip;q=0, deflate", "deflate"), ("br", None), ("deflate, gzip", "gzip")):
            _, headers, body = server.request("GET", "/v2/models/stats", headers={"Accept-Encoding": accepted})
            assert headers.get("content-encoding") == coding
            assert len(body) == int(headers["content-length"])
            plain = {"gzip": gzip.decompress, "deflate": zlib.decompress, None: bytes}[coding](body)
            assert {model["name"] for model in json.loads(plain)["model_stats"]} == {"tiny", "half", "fixed", "grown"}

    def test_a_body_that_is_one_tensor(self, server: Running) -> None:
        image = graphs.images(1).astype(np.float16)
        status, headers, body = server.request("POST", "/v2/models/half/infer", image.tobytes(), {BINARY: "0"})
        assert status == 200
        length = int(headers[BINARY.lower()])
        logits, _ = json.loads(body[:length])["outputs"]
        assert (logits["shape"], logits["parameters"]) == ([1, 5], {"binary_data_size": 10})
        found = np.frombuffer(body[length : length + 10], np.float16)
        np.testing.assert_allclose(found, graphs.expected(image.astype(np.float32))[0][0], atol=0.1)
        status, answer = server.json("POST", INFER, None, **{BINARY: "0"})
        assert status == 400 and "must say its shape" in answer["error"]

    def test_request_ids(self, server: Running) -> None:
        headers = server.request("GET", "/v2", headers={"X-Request-Id": "mine"})[1]
        assert headers["x-request-id"] == "mine"
        first, second = (server.request("GET", "/v2", headers={"X-Request-Id": "not ä"})[1] for _ in range(2))
        assert first["x-request-id"] != second["x-request-id"]


ONE = graphs.images(1)

REFUSED: dict[str, tuple[Any, str]] = {
    "no object": ([1], "is no object"),
    "no inputs": ({}, "a list of objects 'inputs'"),
    "too few inputs": ({"inputs": []}, "expected 1 inputs but got 0"),
    "no name": ({"inputs": [{}]}, "needs a string 'name'"),
    "twice": ({"inputs": document(ONE)["inputs"] * 2}, "given twice"),
    "datatype": (document(ONE, datatype="FP8"), "unknown datatype 'FP8'"),
    "bytes": (document(ONE, datatype="BYTES"), "data-type is 'BYTES'"),
    "negative shape": (document(ONE, shape=[1, 3, -8, -8]), "must be a list of at most 32 integers"),
    "endless shape": (document(ONE, shape=[1] * 1000), "must be a list of at most 32 integers"),
    "boolean shape": (document(ONE, shape=[True, 3, 8, 8]), "must be a list of at most 32 integers"),
    "too few numbers": (document(ONE, data=[1.0]), "has 1 elements, but its shape"),
    "words": (document(ONE, data=["a"] * 192), "no list of FP32 values"),
    "no data": (document(ONE, data=None), "no list of FP32 values"),
    "ragged": (document(ONE, data=[[1], [2, 3]]), "no regular list"),
    "overflow": (document(ONE, data=[1e300] * 192), "outside FP32"),
    "both": (document(ONE, parameters={"binary_data_size": 0}), "either data or a binary_data_size"),
    "parameters": ({**document(ONE), "parameters": 3}, "must be an object"),
    "flag": ({**document(ONE), "parameters": {"binary_data_output": 1}}, "must be true or false"),
    "timeout": ({**document(ONE), "parameters": {"timeout": -1}}, "whole number of microseconds"),
    "id": ({**document(ONE), "id": 3}, "'id' must be a string"),
    "classes": (
        {**document(ONE), "outputs": [{"name": "logits", "parameters": {"classification": -1}}]},
        "must be a number of classes",
    ),
    "no rows": (document(ONE[:0]), "batch-size must be 1 to 16"),
}


class TestRefusals:
    @pytest.mark.parametrize("case", REFUSED)
    def test_what_cannot_be_understood(self, server: Running, case: str) -> None:
        request, words = REFUSED[case]
        status, answer = server.json("POST", INFER, request)
        assert status == 400
        assert list(answer) == ["error"] and words in answer["error"]

    def test_json_that_is_none(self, server: Running) -> None:
        for body in (b"{", b"\xff", b"[" * 100_000, b'{"inputs": ' + b"9" * 5000 + b"}"):
            status, _, answer = server.request("POST", INFER, body)
            assert status == 400 and "failed to parse the request JSON" in json.loads(answer)["error"]

    def test_raw_tensors_of_another_length(self, server: Running) -> None:
        body, headers = binary(graphs.images(1))
        for sent, words in ((body[:-4], "unexpected total byte size"), (body + b"1234", "4 bytes more")):
            status, _, answer = server.request("POST", INFER, sent, headers)
            assert status == 400 and words in json.loads(answer)["error"]
        for length in ("-1", "x", "9" * 30, str(len(body) + 1)):
            status, _, answer = server.request("POST", INFER, body, {BINARY: length})
            assert status == 400 and "must be a number from 0" in json.loads(answer)["error"]

    def test_half_precision_and_infinity_need_binary_data(self, server: Running) -> None:
        status, answer = server.json("POST", "/v2/models/half/infer", document(ONE, datatype="FP16"))
        assert status == 400 and "FP16 data via JSON is not supported" in answer["error"]
        values = np.full((1, 2), np.inf, np.float32)
        entry = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
        header = json.dumps({"inputs": [entry]}).encode()
        status, _, body = server.request(
            "POST", "/v2/models/grown/infer", header + values.tobytes(), {BINARY: str(len(header))}
        )
        assert status == 400 and "not finite" in json.loads(body)["error"]

    def test_routes_methods_and_encodings(self, server: Running) -> None:
        assert server.json("GET", "/v3")[0] == 404
        assert server.json("DELETE", INFER)[0] == 405
        assert server.json("GET", "/v2/models/nothing")[0] == 404
        assert server.json("GET", "/v2/models/..%2f..%2fetc/config")[0] == 404
        status, answer = server.json("POST", INFER, {}, **{"Content-Encoding": "br"})
        assert status == 415 and "gzip, deflate" in answer["error"]

    def test_pages_of_other_sites(self, server: Running) -> None:
        for site, wanted in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
            status, answer = server.json("POST", INFER, document(ONE), **{"Sec-Fetch-Site": site})
            assert status == wanted and ("error" in answer) == (wanted == 403)
        assert server.request("GET", "/v2", headers={"Sec-Fetch-Site": "cross-site"})[0] == 200  # a link to it

    def test_damaged_compression(self, server: Running) -> None:
        for body in (b"nonsense", gzip.compress(b"{}")[:-9]):
            status, _, answer = server.request("POST", INFER, body, {"Content-Encoding": "gzip"})
            assert status == 400 and "body" in json.loads(answer)["error"]


@pytest.fixture(scope="class")
def narrow(repository: Path) -> Iterator[Running]:
    """A server with small limits."""
    with running(repository, max_body_mb=0.01, max_elements=500, body_timeout_s=0.3) as server:
        yield server


class TestLimits:
    def test_bodies(self, narrow: Running) -> None:
        bomb = gzip.compress(bytes(1 << 20))
        assert len(bomb) < 10_000
        for body, headers in ((bytes(20_000), {}), (bomb, {"Content-Encoding": "gzip"})):
            status, _, answer = narrow.request("POST", INFER, body, headers)
            assert status == 413 and "the most this server takes" in json.loads(answer)["error"]

    def test_a_body_without_a_declared_length(self, narrow: Running) -> None:
        with socket.create_connection(("127.0.0.1", narrow.where.port), timeout=30) as connection:
            connection.sendall(
                f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            )
            connection.sendall(b"4000\r\n" + bytes(0x4000) + b"\r\n0\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")

    def test_elements(self, narrow: Running) -> None:
        status, answer = narrow.json("POST", INFER, document(ONE, shape=[1, 3, 1 << 20, 1 << 20], data=[]))
        assert status == 413 and "at most 500" in answer["error"]
        images = graphs.images(3)
        status, _, body = narrow.request("POST", INFER, *binary(images))
        assert status == 413 and "576 elements" in json.loads(body)["error"]
        assert narrow.json("POST", INFER, document(images[:2]))[0] == 200

    def test_a_body_that_never_comes(self, narrow: Running) -> None:
        with socket.create_connection(("127.0.0.1", narrow.where.port), timeout=30) as connection:
            connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{{".encode())
            answer = b""
            while part := connection.recv(1000):  # until the server closes the connection
                answer += part
            assert answer.startswith(b"HTTP/1.1 408 ") and b"did not arrive within 0.3 s" in answer

    def test_still_well_afterwards(self, narrow: Running) -> None:
        assert narrow.json("POST", INFER, document(ONE))[0] == 200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("name", "shape", "datatype", "data", "parameters")


class TestFuzz:
    """No mutation of a good request may break the server: refused or answered, in JSON."""

    @settings(
        max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
    )
    @given(field=st.sampled_from((*FIELDS, "inputs", "outputs", "id", "parameters of the request")), value=VALUES)
    def test_json(self, server: Running, field: str, value: Any) -> None:
        request = document(ONE)
        if field in FIELDS:
            request["inputs"][0][field] = value
        else:
            request[field.removesuffix(" of the request")] = value
        status, _, body = server.request("POST", INFER, json.dumps(request))
        assert status in (200, 400, 413, 501)
        assert ("error" in json.loads(body)) == (status != 200)

    @settings(
        max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
    )
    @given(data=st.data())
    def test_bytes(self, server: Running, data: st.DataObject) -> None:
        body, headers = binary(ONE, binary_data_output=True)
        mutated = bytearray(body)
        for position in data.draw(st.lists(st.integers(0, int(headers[BINARY]) - 1), min_size=1, max_size=3)):
            mutated[position] = data.draw(st.integers(0, 255))
        length = data.draw(st.integers(0, len(body) + 3))
        status, _, answer = server.request("POST", INFER, bytes(mutated[: len(body)]), {BINARY: str(length)})
        assert status in (200, 400, 404, 413, 501)
        if status != 200:
            assert "error" in json.loads(answer)
