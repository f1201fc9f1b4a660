"""Bytes that are no HTTP, or nearly: first lines, headers, lengths and chunks, over a socket of their own."""

from __future__ import annotations

import collections
import json
import random
import re
import socket

import pytest

from tests.runtimes import graphs
from tests.serving.fuzz.test_binary_requests import mutated_bytes
from tests.serving.fuzz.watching import Watched, check_refusal, seed_of

USUAL, NIGHTLY = 100, 5_000


def good_message(source: random.Random) -> bytes:
    """Return the bytes of a request that can be answered."""
    data = graphs.images(1).tobytes()
    entry = {"name": "images", "shape": [1, 3, 8, 8], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
    text = json.dumps({"inputs": [entry]}).encode()
    head = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\nInference-Header-Content-Length: %d\r\n" % len(
        text
    )
    body = text + data
    if source.random() < 0.5:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    pieces = [body[start : start + 300] for start in range(0, len(body), 300)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def spoilt_head(source: random.Random, message: bytes) -> bytes:
    """Return a message with something wrong in what frames it."""
    head, _, body = message.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    spoilt = source.choice(
        [
            *(
                b"Content-Length: 5",
                b"Content-Length: -1",
                b"Content-Length: 99999999999999999999",
                b"Content-Length: x",
            ),
            *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity"),
            *(
                b"Expect: 100-continue",
                b"Connection: Upgrade\r\nUpgrade: websocket",
                b"Connection: close",
                b"X: \x00\x01",
            ),
            *(b"no colon", b": no name", b" folded", b"X" * 20_000 + b": y", b"X: " + b"y" * 20_000, b"Host: y"),
        ]
    )
    kind = source.randrange(4)
    if kind == 0:
        lines[0] = source.choice(
            [
                *(
                    b"GET /v2/models/tiny/infer HTTP/1.1",
                    b"BREW /pot HTCPCP/1.0",
                    b"POST http://[ HTTP/1.1",
                    b"\x16\x03\x01",
                ),
                *(
                    b"POST /v2/models/%00%ff%2f..%2f/infer HTTP/1.1",
                    b"POST * HTTP/1.1",
                    b"POST /v2 HTTP/9.9",
                    b"PRI * HTTP/2.0",
                ),
                *(b"POST /" + b"a" * 30_000 + b" HTTP/1.1", b"POST /v2/models/tiny/infer", b"", b"POST  /v2 HTTP/1.1"),
            ]
        )
    elif kind == 1:
        lines.insert(source.randint(1, len(lines)), spoilt)
    elif kind == 2:
        lines[-1] = spoilt
    else:
        body = mutated_bytes(source, body)
    return b"\r\n".join(lines) + source.choice([b"\r\n\r\n"] * 5 + [b"\n\n", b"\r\n", b""]) + body


def exchange(port: int, message: bytes) -> bytes:
    """Send bytes, and return everything that is answered until the server closes or has no more to say."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        answer = bytearray()
        try:
            connection.sendall(message)
            connection.settimeout(0.05)  # it may wait for the rest of what was sent
            while part := connection.recv(1 << 16):
                answer += part
        except (ConnectionResetError, BrokenPipeError, TimeoutError):
            pass  # or it closed with some of it unread
        return bytes(answer)


def check_answers(answer: bytes, sent: bytes) -> int:
    """Check the responses to one message, of which there may be none; return the last one's status, or 0."""
    status, rest = 0, answer
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        match = re.match(rb"HTTP/1\.[01] (\d{3}) ", head)
        assert match, (sent[:300], answer[:300])
        status = int(match[1])
        if status == 100:
            continue
        length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
        assert length, head
        body, rest = rest[: int(length[1])], rest[int(length[1]) :]
        if status != 200 and body:  # none where the method was HEAD, or a lone probe's
            check_refusal(status, body, sent=sent[:300])
    return status


@pytest.mark.parametrize("num_requests", [USUAL, pytest.param(NIGHTLY, marks=pytest.mark.slow)])
def test_spoilt_messages(server: Watched, num_requests: int) -> None:
    number = seed_of(num_requests, USUAL)
    statuses: collections.Counter[int] = collections.Counter()

    def send_many(count: int, seed: int) -> None:
        source = random.Random(seed)
        for index in range(count):
            sent = spoilt_head(source, good_message(source))
            if source.random() < 0.2:
                sent = mutated_bytes(source, sent)
            try:
                statuses[check_answers(exchange(server.port, sent), sent)] += 1
            except (AssertionError, OSError) as error:
                raise AssertionError(f"message {index} of seed {seed}: {sent[:500]!r}") from error

    send_many(num_requests // 10, number + 1)
    with server.keeps_its_size(num_requests):
        send_many(num_requests, number)
    assert {200, 400} <= set(statuses), statuses
