"""Starts the watched server, and holds it to what it held before a test."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.runtimes import graphs

ROOT = Path(__file__).parents[3]
REFUSALS = {400, 401, 403, 404, 405, 408, 413, 415, 431, 501, 503}
"""What a request may be answered that cannot be served: never 500."""


@dataclasses.dataclass
class Watched:
    """A server in another process.

    Attributes:
        process: the process.
        port: its HTTP port.
        grpc_port: its gRPC port.
        log: what it writes to standard error.
    """

    process: subprocess.Popen[str]
    port: int
    grpc_port: int
    log: Path

    def held(self) -> dict[str, int]:
        """Return what the server holds now."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the server is gone: {self.log.read_text()[-2000:]}"
        return dict(json.loads(line))

    @contextlib.contextmanager
    def keeps_its_size(self, num_requests: int) -> Iterator[None]:
        """Check that the server holds no more after many requests than before them, and logged no traceback.

        To be entered after a tenth of as many: what is kept for good after its first use is no growth.
        """
        self.check_good_request()
        before = self.held()
        yield
        self.check_good_request()
        # A pool fills up as it is needed; 300 objects are a third of a small test's requests, nothing of a night's.
        spare = {"tasks": 0, "threads": 4, "files": 4, "objects": 300, "resident_bytes": 32 << 20}
        deadline = time.monotonic() + 10
        while (grown := self._grown(before, spare)) and time.monotonic() < deadline:
            time.sleep(0.1)  # closed connections and ended calls are let go by and by
        assert not grown, grown
        log = self.log.read_text()
        assert "Traceback" not in log, log[:5000]

    def _grown(self, before: dict[str, int], spare: dict[str, int]) -> dict[str, tuple[int, int]]:
        """Return what the server holds more of than before, with both numbers."""
        after = self.held()
        return {name: (before[name], after[name]) for name in spare if after[name] > before[name] + spare[name]}

    def check_good_request(self) -> None:
        """Check that a good request gets its right answer."""
        images = graphs.images(2)
        entry = {"name": "images", "shape": list(images.shape), "datatype": "FP32", "data": images.ravel().tolist()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", "/v2/models/tiny/infer", json.dumps({"inputs": [entry]}))
            response = connection.getresponse()
            answer = json.loads(response.read())
        assert response.status == 200, answer
        logits = next(output for output in answer["outputs"] if output["name"] == "logits")
        np.testing.assert_allclose(np.reshape(logits["data"], (2, 5)), graphs.expected(images)[0], atol=1e-4)


@contextlib.contextmanager
def watched(repository: Path, folder: Path) -> Iterator[Watched]:
    """Start the server, and end it; it must end by itself."""
    log = folder / "server.log"
    command = [sys.executable, "-m", f"{__package__}.watched_server", str(repository)]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
        ) as process,
    ):
        try:
            assert process.stdout is not None and process.stdin is not None
            line = process.stdout.readline()
            assert line, f"the server does not start: {log.read_text()}"
            yield Watched(process, log=log, **json.loads(line))
            process.stdin.close()
            assert process.wait(60) == 0, log.read_text()[-2000:]
        finally:
            process.kill()


def check_refusal(status: int, body: bytes, *, sent: object = None) -> None:
    """Check that an answer other than 200 is a refusal in Triton's form."""
    assert status in REFUSALS, (status, body, sent)
    document = json.loads(body)
    assert list(document) == ["error"] and isinstance(document["error"], str) and document["error"], (body, sent)
    assert "Traceback" not in document["error"]


def seed_of(num_requests: int, usual: int) -> int:
    """Return the seed of a run: always the same in the fast tests, another one every night."""
    return 0 if num_requests <= usual else random.SystemRandom().getrandbits(32)


def nasty_value(source: random.Random) -> Any:
    """Return a JSON value that few programs expect."""
    return source.choice(
        [
            *(
                None,
                True,
                False,
                0,
                -1,
                1,
                3.5,
                1e308,
                -0.0,
                float("nan"),
                float("inf"),
                2**31,
                2**63,
                -(2**63) - 1,
                10**400,
            ),
            *("", "FP32", "images", "\x00", "\ud800", "ä" * 40, "../../etc/passwd", "9" * 30, "x" * 5000),
            *([], {}, [[]], [None], [1, 2, 3], [[1], [2, 3]], {"a": {}}, [{}], [["x"]], {"binary_data_size": -1}),
        ]
    )
