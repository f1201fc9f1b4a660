"""Clients that send one request after the other, and count right answers, refusals and broken connections.

Imports nothing but the standard library, so that it runs in any environment and on any host.
"""

from __future__ import annotations

import collections
import dataclasses
import http.client
import json
import threading
import time
from collections.abc import Iterable


@dataclasses.dataclass
class Counts:
    """What became of the requests.

    Attributes:
        right: answers with the expected values.
        wrong: answers with others.
        failures: what else happened, each with the time by the monotonic clock.
    """

    right: int = 0
    wrong: int = 0
    failures: list[tuple[float, str]] = dataclasses.field(default_factory=list)

    def by_kind(self) -> dict[str, int]:
        return dict(collections.Counter(kind for _, kind in self.failures))


class Load:
    """Clients in threads.

    Args:
        hosts: addresses, each with a port; the clients are spread over them.
        path: where the requests go.
        body: what they carry.
        expected: the answer's outputs.
        num_clients: how many send at once.
    """

    def __init__(
        self, hosts: Iterable[tuple[str, int]], path: str, body: bytes, expected: object, num_clients: int = 8
    ) -> None:
        self.counts = Counts()
        self._path, self._body, self._expected = path, body, expected
        self._lock, self._stop = threading.Lock(), threading.Event()
        addresses = list(hosts)
        self._threads = [
            threading.Thread(target=self._send, args=addresses[number % len(addresses)], daemon=True)
            for number in range(num_clients)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> Counts:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive(), "a client waits for ever"
        return self.counts

    def _send(self, host: str, port: int) -> None:
        connection = http.client.HTTPConnection(host, port, timeout=60)
        while not self._stop.is_set():
            try:
                connection.request("POST", self._path, self._body)
                response = connection.getresponse()
                data = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._fail(type(error).__name__)
                continue
            if response.status != 200:
                self._fail(str(response.status))
                continue
            is_right = json.loads(data)["outputs"] == self._expected
            with self._lock:
                self.counts.right += is_right
                self.counts.wrong += not is_right
        connection.close()

    def _fail(self, kind: str) -> None:
        with self._lock:
            self.counts.failures.append((time.monotonic(), kind))
        time.sleep(0.05)
