"""The life of the server: ports first, then models, then readiness; at a signal readiness goes, then the ports.

What was accepted is always answered: a connection that is open when the ports close may finish its request.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import importlib.util
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from types import FrameType
from typing import Any

from aps_deploy.errors import ApsError, InputError
from aps_deploy.serving.canary import canary_picture, watched
from aps_deploy.serving.connections import ConnectionLimits, protocol_class
from aps_deploy.serving.direct_inference import DirectInference
from aps_deploy.serving.grpc_service import GrpcService
from aps_deploy.serving.http_app import HttpApp
from aps_deploy.serving.registry import Registry
from aps_deploy.serving.repository import Repository
from aps_deploy.serving.settings import ServeSettings
from aps_deploy.serving.tls import check_key_pair, grpc_credentials
from aps_deploy.serving.tracing import Tracing, traced

logger = logging.getLogger(__name__)

_PACKAGES = {"uvicorn": "uvicorn", "httptools": "httptools", "grpc": "grpcio", "tritonclient": "tritonclient"}

_BACKLOG = 2048
_KEEP_ALIVE_S = 75
"""How long an idle connection stays open: longer than the usual 60 s of load balancers, which must close first."""

_LAST_REQUESTS_S = 0.1
"""How long open connections may still begin a request after the port closed."""

_LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")


@dataclasses.dataclass(frozen=True)
class Addresses:
    """Where the server listens.

    Attributes:
        host: the address.
        port: HTTP port.
        grpc_port: gRPC port; None without gRPC.
        has_tls: whether both speak TLS.
    """

    host: str
    port: int
    grpc_port: int | None
    has_tls: bool = False

    @property
    def url(self) -> str:
        """The address of the HTTP side."""
        return f"http{'s' if self.has_tls else ''}://{_bracketed(self.host)}:{self.port}"


class Stopping:
    """Asks a server to stop: once with patience for what it accepted, twice without."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Event()
        self._urged = asyncio.Event()
        self.with_delay = False

    def ask(self, *, with_delay: bool = False) -> None:
        """Ask, from any thread or from a signal handler; ``with_delay`` leaves the ports open for the drain delay."""
        self._loop.call_soon_threadsafe(self._ask, with_delay)

    def _ask(self, with_delay: bool) -> None:
        if self._asked.is_set():
            self._urged.set()
        self.with_delay = with_delay
        self._asked.set()

    async def wait(self) -> None:
        """Wait until the server should stop."""
        await self._asked.wait()

    async def sleep(self, seconds: float) -> None:
        """Wait so long, or until the server should stop at once."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._urged.wait(), seconds)

    @property
    def is_asked(self) -> bool:
        """Whether the server should stop."""
        return self._asked.is_set()

    @property
    def is_urgent(self) -> bool:
        """Whether the server should stop at once."""
        return self._urged.is_set()


def check_packages() -> None:
    """Do nothing where the packages of the extra ``serve`` are installed.

    Raises:
        InputError: one is missing.
    """
    for module, package in _PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise InputError(f'{package} is not installed; install the server with pip install "aps-deploy[serve]".')


def run_server(settings: ServeSettings, *, started: Callable[[Addresses], None] | None = None) -> None:
    """Serve until a signal asks to stop.

    Args:
        settings: what to serve and where.
        started: called once the models are loaded, with where the server listens.

    Raises:
        InputError: a package is missing, there is nothing to serve, a port is taken, or no model can be loaded.
    """
    check_packages()
    import uvicorn

    with asyncio.Runner(loop_factory=uvicorn.Config(_no_app, log_config=None).get_loop_factory()) as runner:
        runner.run(serve(settings, started=None if started is None else lambda where, _: started(where)))


async def serve(settings: ServeSettings, *, started: Callable[[Addresses, Stopping], None] | None = None) -> None:
    """Serve on the running event loop; signals are heard where this is the main thread.

    Args:
        settings: what to serve and where.
        started: called once the models are loaded, with where the server listens and what stops it.

    Raises:
        InputError: as `run_server`.
    """
    check_packages()
    registry = Registry(Repository(settings.target), settings)
    picture = canary_picture(settings)
    if settings.tls_cert is not None and settings.tls_key is not None:
        check_key_pair(settings.tls_cert, settings.tls_key)
    stopping = Stopping()
    with _bound(settings.host, settings.port) as listener:
        async with (
            traced(settings.traces) as tracing,
            _grpc_server(registry, settings, stopping, tracing) as grpc_port,
            _http_server(registry, settings, listener, stopping, tracing),
        ):
            where = Addresses(settings.host, listener.getsockname()[1], grpc_port, settings.tls_cert is not None)
            if await _loaded(registry, stopping):
                _announce(where, settings)
                if started is not None:
                    started(where, stopping)
                async with watched(registry, settings, picture):
                    await stopping.wait()
            registry.is_draining = True
            logger.info("stopping: not ready any more, accepted requests are answered")
            if stopping.with_delay:
                await stopping.sleep(settings.drain_delay_s)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(registry.close(), 0.1 if stopping.is_urgent else settings.drain_s)
    logger.info("stopped")


def _announce(where: Addresses, settings: ServeSettings) -> None:
    grpc = "" if where.grpc_port is None else f" and gRPC on {_bracketed(where.host)}:{where.grpc_port}"
    logger.info("listening on %s%s", where.url, grpc)
    if where.host not in _LOCAL_HOSTS and settings.token is None:
        logger.warning("anybody who reaches %s may use the models: there is no token", where.host)
    elif where.host not in _LOCAL_HOSTS and not where.has_tls:
        logger.warning("tokens and images go to %s in the clear: there is no TLS, unless in front of it", where.host)


async def _loaded(registry: Registry, stopping: Stopping) -> bool:
    """Load all models; return whether that came before the wish to stop, which leaves out those not begun yet."""
    loading, asked = asyncio.create_task(load_models(registry)), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((loading, asked), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
        return not stopping.is_asked
    finally:
        for task in (loading, asked):
            task.cancel()
        await asyncio.gather(loading, asked, return_exceptions=True)


async def load_models(registry: Registry) -> None:
    """Load every model of a server that starts.

    Raises:
        InputError: none can be served; those that cannot beside others are logged.
    """
    failures = await registry.load_all()
    if not registry.models():
        reason = str(next(iter(failures.values())))
        raise InputError(reason if len(failures) == 1 else f"no model can be served; the first: {reason}")
    for name, error in failures.items():
        logger.error("model %s is not served: %s", name, error)
    # What is loaded stays: the collector need not look through it again, which took 50 ms every time.
    gc.collect()
    gc.freeze()


def _bound(host: str, port: int, option: str = "--port") -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"cannot listen on {_bracketed(host)}:{port} ({reason}); choose another --host or {option}."
        ) from None


@contextlib.asynccontextmanager
async def _http_server(
    registry: Registry,
    settings: ServeSettings,
    listener: socket.socket,
    stopping: Stopping,
    tracing: Tracing | None,
) -> AsyncIterator[None]:
    """Serve HTTP on a bound socket; at the end answer what was accepted, and close."""
    import uvicorn

    class SignalledServer(uvicorn.Server):
        """uvicorn, which hears the signals and leaves the order of the ending to `serve`."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            self.force_exit = stopping.is_asked
            stopping.ask(with_delay=sig == signal.SIGTERM)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for server in self.servers:
                server.close()
            # A connection that was made just before brings its request now; uvicorn would close it at once.
            await stopping.sleep(_LAST_REQUESTS_S)
            await super().shutdown(sockets)

    limits = ConnectionLimits(
        settings.max_connections, settings.max_header_bytes, settings.header_timeout_s, settings.body_timeout_s
    )
    app = HttpApp(registry, settings, tracing)
    config = uvicorn.Config(
        app,
        http=protocol_class(limits, DirectInference(app, settings.max_body_bytes)),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
    server = SignalledServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.001)
        yield
    finally:
        server.should_exit = True
        server.force_exit = stopping.is_urgent
        await task


@contextlib.asynccontextmanager
async def _grpc_server(
    registry: Registry, settings: ServeSettings, stopping: Stopping, tracing: Tracing | None
) -> AsyncIterator[int | None]:
    """Serve gRPC and yield its port; at the end answer what was accepted, and close."""
    if settings.grpc_port is None:
        yield None
        return
    import grpc

    options = [
        # gRPC has 32 bits for it.
        ("grpc.max_receive_message_length", min(settings.max_body_bytes, (1 << 31) - 1)),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # else a second server would share the port in silence
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        ("grpc.server_handshake_timeout_ms", round(1000 * settings.header_timeout_s)),
        ("grpc.max_connection_idle_ms", 1000 * _KEEP_ALIVE_S),
        # A client that vanished without a word is found out, and its connection freed.
        ("grpc.keepalive_time_ms", 1000 * _KEEP_ALIVE_S),
        ("grpc.keepalive_timeout_ms", round(1000 * settings.body_timeout_s)),
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=settings.max_connections)
    server.add_generic_rpc_handlers((GrpcService(registry, settings, tracing).handler(),))
    # gRPC would say less, and on standard error, of a port that cannot be had.
    _bound(settings.host, settings.grpc_port, "--grpc-port").close()
    address = f"{_bracketed(settings.host)}:{settings.grpc_port}"
    port: int
    if settings.tls_cert is not None and settings.tls_key is not None:
        port = server.add_secure_port(address, grpc_credentials(settings.tls_cert, settings.tls_key))
    else:
        port = server.add_insecure_port(address)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace=0 if stopping.is_urgent else settings.drain_s)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    raise ApsError("this application is only there to be configured.")
