"""The life of the application on a Ray cluster: connect, deploy, wait until it answers, take it away at a signal."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.onnx_files import one_line
from aps_deploy.serving.cluster.replica import Replica
from aps_deploy.serving.cluster.settings import (
    APPLICATION,
    LOCAL,
    ClusterSettings,
    deployment_options,
    environment,
    grpc_options,
    replica_settings,
)
from aps_deploy.serving.repository import Repository
from aps_deploy.serving.running import Addresses, check_packages
from aps_deploy.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

_REACH_S = 5.0
"""How long a cluster may take to accept a connection."""

_ANSWER_S = 60.0
"""How long the front door may take to know the replicas that already run."""

_OWN_ERRORS = re.compile(r"^aps_deploy\.(?:serving\.)?errors\.\w+: (.+)", re.MULTILINE)


def check_ray() -> None:
    """Do nothing where the packages of the extra ``ray`` are installed.

    Raises:
        InputError: one is missing.
    """
    check_packages()
    # Ray alone is not enough: its front door has packages of its own.
    for module, package in (("ray", "ray[serve]"), ("fastapi", "ray[serve]"), ("starlette", "ray[serve]")):
        if importlib.util.find_spec(module) is None:
            raise InputError(f'{package} is not installed; install it with pip install "aps-deploy[ray]".')


def run_on_cluster(
    settings: ServeSettings, cluster: ClusterSettings, *, started: Callable[[Addresses], None] | None = None
) -> None:
    """Serve on a Ray cluster until a signal asks to stop.

    Args:
        settings: what to serve; every host finds it, and this package, where this one does.
        cluster: how many replicas, with what, where.
        started: called once the models answer, with where this host listens.

    Raises:
        InputError: Ray is missing or cannot be reached, there is nothing to serve, or a replica refuses it.
        ApsError: the replicas, or the front door, do not come up.
    """
    check_ray()
    Repository(settings.target)
    own = replica_settings(settings, cluster)
    for name, value in environment(own).items():
        os.environ.setdefault(name, value)
    with _connected(cluster.address) as ray:
        _warn_of_missing_hosts(ray, cluster)
        with _deployed(own, cluster):
            _wait_for_answer(own)
            if started is not None:
                started(Addresses(own.host, own.port, own.grpc_port))
            _wait_for_signal()
            logger.info("stopping: the application leaves the cluster, accepted requests are answered")


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Connect to the cluster, to the one of this host, or to a new one of this host alone."""
    if address not in (None, LOCAL):
        check_reach(str(address))
    import ray

    arguments = {"log_to_driver": False, "configure_logging": False, "namespace": APPLICATION}
    try:
        try:
            if address != LOCAL:
                ray.init(address or "auto", **arguments)
        except ConnectionError:
            if address is not None or os.environ.get("RAY_ADDRESS"):
                raise
        if not ray.is_initialized():
            ray.init(LOCAL, include_dashboard=False, **arguments)
    except Exception as error:  # Ray's own kinds have no common one
        where = address or os.environ.get("RAY_ADDRESS") or "this host"
        raise InputError(f"the Ray cluster at {where} does not let this host in ({one_line(error)}).") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def check_reach(address: str) -> None:
    """Do nothing where something listens at ``HOST:PORT``; Ray would try for a minute.

    Raises:
        InputError: nothing does.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"there is no Ray cluster at {address} ({reason}); start one with `ray start --head`, or leave "
            "--ray-address out."
        ) from None


def _warn_of_missing_hosts(ray: Any, cluster: ClusterSettings) -> None:
    wanted = {"CPU": cluster.cpus_per_replica, "GPU": cluster.gpus_per_replica}
    hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(host.get(kind, 0) >= count for kind, count in wanted.items()) for host in hosts):
        logger.warning(
            "no host of the cluster has %g CPUs and %g GPUs for a replica: waiting until one joins",
            *wanted.values(),
        )


@contextlib.contextmanager
def _deployed(settings: ServeSettings, cluster: ClusterSettings) -> Iterator[None]:
    """Run the application on the cluster inside the ``with``."""
    serve = import_serve()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # this log is JSON, theirs is prose
    variables = {name: os.environ[name] for name in os.environ if name.startswith("RAY_SERVE_")}
    options = deployment_options(settings, cluster)
    deployment = serve.deployment(**options)(serve.ingress()(Replica))
    try:
        serve.start(
            proxy_location="EveryNode",
            http_options={"host": settings.host, "port": settings.port},
            grpc_options=grpc_options(settings),
            # On a cluster that was started without them: Ray's own processes inherit the controller's environment.
            controller_options={"runtime_env": {"env_vars": variables}},
        )
    except Exception as error:
        raise ApsError(f"Ray Serve does not start on the cluster ({one_line(error)}).") from error
    if APPLICATION in serve.status().applications:
        raise InputError(
            "this cluster serves models already; stop the other `aps-deploy serve --engine ray` first, or what it left "
            "with `serve shutdown`."
        )
    try:
        try:
            serve.run(deployment.bind(settings), name=APPLICATION, route_prefix="/")
        except Exception as error:
            raise readable(error, _reasons(serve)) from error
        yield
    finally:  # also where a signal ends the waiting for replicas
        _take_away(serve)


def import_serve() -> Any:
    """Return Ray Serve's module.

    Raises:
        InputError: it, or what it needs, cannot be imported.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise InputError(
            f'Ray Serve cannot be imported ({one_line(error)}); run pip install "aps-deploy[ray]", whose versions '
            "fit each other."
        ) from error
    return serve


def _take_away(serve: Any) -> None:
    """Remove the application, and the front door where nobody else uses it."""
    with contextlib.suppress(Exception):  # the cluster may be what is gone
        serve.delete(APPLICATION)
        if not serve.status().applications:
            serve.shutdown()


def _reasons(serve: Any) -> str:
    """Return what Ray Serve says of the deployments that do not come up."""
    with contextlib.suppress(Exception):  # there may be nobody to ask
        application = serve.status().applications[APPLICATION]
        return "\n".join(deployment.message for deployment in application.deployments.values())
    return ""


def readable(error: Exception, reasons: str) -> ApsError:
    """Return what Ray reports as one sentence: ours, where a replica raised one."""
    found = _OWN_ERRORS.findall(f"{error}\n{reasons}")
    if found:
        return InputError(found[-1])
    *_, last = reasons.strip().splitlines() or [""]
    told = one_line(error) + (f": {last.strip()}" if last else "")
    return ApsError(f"Ray Serve could not start the application ({told}).")


def _wait_for_answer(settings: ServeSettings) -> None:
    """Wait until the front door of this host leads to a replica."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    url = f"{Addresses(host, settings.port, None).url}/v2/health/live"
    deadline = time.monotonic() + _ANSWER_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (OSError, urllib.error.HTTPError) as error:
            if time.monotonic() > deadline:
                raise ApsError(
                    f"the replicas run, but nothing answers at {url} ({one_line(error)}); Ray Serve listens where it "
                    "was first started on this cluster: run `serve shutdown`, or give its --host and --port."
                ) from None
        time.sleep(0.2)


def _wait_for_signal() -> None:
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not asked.wait(1):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
