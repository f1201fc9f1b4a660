"""A server under load: more and more clients, each with one request on its way, every answer compared bit for bit.

The reference is the server's own answer to each payload, asked alone before there is any load: what it answers under
load, batched with others, must be the same bytes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from aps_deploy.bench.calls import Caller
from aps_deploy.bench.payloads import make_payloads
from aps_deploy.bench.target import Address, find_model, parse_address
from aps_deploy.bench.windows import Level, Window, agree, level_of
from aps_deploy.errors import ApsError, InputError

_NUM_PAYLOADS = 16
_TOLERANCE = 0.1
"""Windows agree where their rates are within a tenth of their mean, as in NVIDIA's perf_analyzer."""

_PAUSE_AFTER_FAILURE_S = 0.01
"""So that a server that is gone does not keep the client busy with finding that out."""


@dataclasses.dataclass(frozen=True)
class LoadSettings:
    """What to ask of which server.

    Attributes:
        url: the server, and its model where it has several; see `parse_address`.
        concurrencies: numbers of clients, one after the other.
        batch_size: images in a request.
        image_size: their height and width, where the model leaves them free.
        warm_up_s: how long each number of clients runs before anything counts.
        window_s: length of a window.
        max_windows: most windows of one number of clients; fewer where the last three agree.
        timeout_s: how long an answer may take.
        seed: of the random images.
        token: bearer token; None for none.
    """

    url: str
    concurrencies: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    batch_size: int = 1
    image_size: int | None = None
    warm_up_s: float = 1.0
    window_s: float = 1.0
    max_windows: int = 10
    timeout_s: float = 60.0
    seed: int = 0
    token: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        for option, value in (("--window", self.window_s), ("--warm-up", self.warm_up_s + 1)):
            if not 0 < value < 1e6:
                raise InputError(f"{option} is {value}; accepted: seconds, more than 0.")
        if not self.concurrencies or min(self.concurrencies) < 1:
            raise InputError(f"--concurrency is {list(self.concurrencies)}; accepted: numbers of clients, 1 or more.")


@dataclasses.dataclass(frozen=True)
class LoadResult:
    """What a sweep measured.

    Attributes:
        address: the server and the model.
        batch_size: images in a request.
        levels: one per number of clients.
        first_failure: why the first failed request failed; None where none did.
    """

    address: Address
    batch_size: int
    levels: Sequence[Level]
    first_failure: str | None

    def check(self) -> None:
        """Do nothing where every request was answered rightly or refused.

        Raises:
            ApsError: one was not.
        """
        wrong = sum(level.wrong for level in self.levels)
        failed = sum(level.failed for level in self.levels)
        if wrong:
            raise ApsError(
                f"{wrong} answers differ from those that the same images got alone; see --batching of "
                "`aps-deploy serve`, and `aps-deploy verify` for the file."
            )
        if failed:
            raise ApsError(f"{failed} requests failed, the first by: {self.first_failure}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        where = {"url": f"{self.address.scheme}://{self.address.authority}", "model": self.address.model}
        levels = [level.to_dict() for level in self.levels]
        return {**where, "batch_size": self.batch_size, "levels": levels, "first_failure": self.first_failure}


def measure_load(settings: LoadSettings, *, progress: Callable[[str, int, int], None] | None = None) -> LoadResult:
    """Measure a running server.

    Args:
        settings: what to ask of which server.
        progress: told what is done, how many numbers of clients are through, and how many there are.

    Raises:
        InputError: the URL is wrong, the model is not there, or its inputs cannot be made up.
        ApsError: nobody answers, or not even a single client gets an answer.
    """
    address, inputs = find_model(parse_address(settings.url), settings.token)
    payloads = make_payloads(
        inputs,
        _NUM_PAYLOADS,
        batch_size=settings.batch_size,
        image_size=settings.image_size,
        seed=settings.seed,
    )
    new_caller: Callable[[], Caller]
    if address.scheme == "grpc":
        from aps_deploy.bench.grpc_calls import GrpcCaller, grpc_requests

        messages = grpc_requests(address, payloads)
        new_caller = lambda: GrpcCaller(address, messages, settings.timeout_s, settings.token)  # noqa: E731
    else:
        from aps_deploy.bench.http_calls import HttpCaller, http_requests

        requests = http_requests(address, payloads, settings.token)
        new_caller = lambda: HttpCaller(address, requests, settings.timeout_s)  # noqa: E731
    return _run(_sweep(settings, address, new_caller, progress))


async def _sweep(
    settings: LoadSettings,
    address: Address,
    new_caller: Callable[[], Caller],
    progress: Callable[[str, int, int], None] | None,
) -> LoadResult:
    first = new_caller()
    try:
        expected = [await _answer_alone(first, number) for number in range(_NUM_PAYLOADS)]
    finally:
        await first.close()
    levels, failures = [], list[str]()
    for number, concurrency in enumerate(settings.concurrencies):
        if progress is not None:
            progress(f"{concurrency} clients", number, len(settings.concurrencies))
        load = Load(new_caller, expected, concurrency)
        windows = await load.run(settings.warm_up_s, settings.window_s, settings.max_windows)
        levels.append(
            level_of(
                concurrency,
                windows,
                failed=load.failed,
                wrong=load.wrong,
                batch_size=settings.batch_size,
                tolerance=_TOLERANCE,
            )
        )
        failures += load.failures
    if progress is not None:
        progress("done", len(levels), len(levels))
    return LoadResult(address, settings.batch_size, levels, next(iter(failures), None))


async def _answer_alone(caller: Caller, number: int) -> bytes:
    reply = await caller.ask(number)
    if reply.kind != "answered":
        reason = reply.content.decode("utf-8", "replace").rstrip(".")
        raise ApsError(f"a single request is not answered ({reason}); see the server's log.")
    return reply.content


class Load:
    """A number of clients that ask without a pause.

    Args:
        new_caller: makes a client.
        expected: the right answer to each payload.
        concurrency: how many clients.

    Attributes:
        failures: why the first requests failed that did.
        failed: how many failed.
        wrong: how many answers differ from the right one.
    """

    def __init__(self, new_caller: Callable[[], Caller], expected: Sequence[bytes], concurrency: int) -> None:
        self._new_caller = new_caller
        self._expected = expected
        self._concurrency = concurrency
        self._window = Window()
        self._is_over = False
        self.failures: list[str] = []
        self.failed = 0
        self.wrong = 0

    async def run(self, warm_up_s: float, window_s: float, max_windows: int) -> list[Window]:
        """Return the windows after the warm-up, until the last three agree or there are ``max_windows``."""
        clients = [asyncio.create_task(self._client(number)) for number in range(self._concurrency)]
        windows: list[Window] = []
        try:
            await self._fill(warm_up_s)
            while len(windows) < max_windows and not agree(windows[-3:], _TOLERANCE):
                windows.append(await self._fill(window_s))
        finally:
            self._is_over = True
            await asyncio.gather(*clients)
        return windows

    async def _fill(self, seconds: float) -> Window:
        """Return a new window, after so many seconds."""
        self._window = window = Window()
        start, before = time.perf_counter(), time.process_time()
        await asyncio.sleep(seconds)
        window.seconds = time.perf_counter() - start
        window.client_cpu_s = time.process_time() - before
        self._window = Window()
        return window

    async def _client(self, number: int) -> None:
        caller, count = self._new_caller(), len(self._expected)
        try:
            while not self._is_over:
                number = (number + 1) % count
                start = time.perf_counter()
                reply = await caller.ask(number)
                if reply.kind == "refused":
                    self._window.refused += 1
                    # A transport may refuse without having waited for anything.
                    await asyncio.sleep(0)
                elif reply.kind == "failed":
                    self.failed += 1
                    if len(self.failures) < self._concurrency:
                        self.failures.append(reply.content.decode("utf-8", "replace").rstrip("."))
                    await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)
                else:
                    self._window.latencies_ms.append(1e3 * (time.perf_counter() - start))
                    self.wrong += reply.content != self._expected[number]
        finally:
            await caller.close()


def _run(work: Coroutine[Any, Any, LoadResult]) -> LoadResult:
    try:
        import uvloop
    except ImportError:  # the extra for servers; slower without it, which the client's share of the processor shows
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
