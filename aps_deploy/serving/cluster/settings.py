"""What a cluster is told about replicas, checked before it is asked for one."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.serving.cluster.grpc_methods import ADD_SERVICER
from aps_deploy.serving.settings import ServeSettings

APPLICATION = "aps-deploy"
"""Name of the application and of its deployment in Ray Serve."""

LOCAL = "local"
"""Address of a new cluster of this host alone."""

ENVIRONMENT = {
    # Without HAProxy and the throughput mode Ray Serve answers 4 to 7 times fewer requests a second.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # An inference changes nothing, so one that a dying host did not begin to answer may be sent to another.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response response-timeout",
    # A host that is gone without a word is noticed by these, and by `environment`'s.
    "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "2",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",
    # A replica that ends waits so long for the front doors to forget it; Ray would wait 30 s.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    # Ray's workers run at niceness 15, behind whatever else a host does; a server is what is waited for.
    "RAY_worker_niceness": "0",
    # Ray reports to its makers otherwise.
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Set for Ray where the caller's environment does not say otherwise."""

_LONGEST_RUN_S = 10
"""How long a run may take, beside the time in the queue, before its host is taken for dead."""


@dataclasses.dataclass(frozen=True)
class ClusterSettings:
    """How many replicas run, with what, and where.

    Attributes:
        address: the cluster's ``HOST:PORT``; ``local`` for a new one of this host alone; None for the one that this
            host belongs to, or a new one where it belongs to none.
        min_replicas: replicas that run in any case.
        max_replicas: most replicas; more than ``min_replicas`` lets their number follow the load.
        cpus_per_replica: cores that a replica reserves, and the threads of its runs.
        gpus_per_replica: GPUs, or a part of one, that a replica reserves.
        target_requests: requests in flight that one replica should have; more of them add replicas.
    """

    address: str | None = None
    min_replicas: int = 1
    max_replicas: int = 1
    cpus_per_replica: float = 1.0
    gpus_per_replica: float = 0.0
    target_requests: float = 16.0

    def __post_init__(self) -> None:
        if self.address not in (None, LOCAL) and not re.fullmatch(r".+:\d{1,5}", self.address or ""):
            raise InputError(
                f"--ray-address is {self.address!r}; accepted: HOST:PORT, as `ray start` prints it, or {LOCAL}."
            )
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise InputError(
                f"--replicas is {self.min_replicas}:{self.max_replicas}; accepted: a number, or MIN:MAX with "
                "1 <= MIN <= MAX."
            )
        for name in ("cpus_per_replica", "target_requests"):
            if not getattr(self, name) > 0:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}; accepted: more than 0.")
        if self.gpus_per_replica < 0 or (self.gpus_per_replica > 1 and self.gpus_per_replica % 1):
            raise InputError(f"--gpus-per-replica is {self.gpus_per_replica}; accepted: 0 to 1, or a whole number.")


def parse_replicas(text: str) -> tuple[int, int]:
    """Return the least and the largest number of replicas of ``N`` or ``MIN:MAX``.

    Raises:
        InputError: the text is neither.
    """
    match = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", text)
    if match is None:
        raise InputError(f"--replicas is {text!r}; accepted: a number, or MIN:MAX.")
    return int(match[1]), int(match[2] or match[1])


def environment(settings: ServeSettings) -> dict[str, str]:
    """Return the variables that Ray Serve's front door reads, where the caller's environment does not have them."""
    if settings.deadline_ms is None:
        return dict(ENVIRONMENT)
    seconds = math.ceil(settings.deadline_ms / 1000) + _LONGEST_RUN_S
    return {**ENVIRONMENT, "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(seconds)}


def replica_settings(settings: ServeSettings, cluster: ClusterSettings) -> ServeSettings:
    """Return the settings of one replica: what belongs to ports is Ray's, what belongs to hosts is made absolute.

    Raises:
        InputError: something is asked for that Ray Serve's front door or many replicas cannot do.
    """
    for name, port in (("--port", settings.port), ("--grpc-port", settings.grpc_port)):
        if port == 0:
            raise InputError(f"{name} is 0; with --engine ray every host listens on the same port, so give one.")
    if settings.tls_cert is not None:
        raise InputError("--tls-cert is not for --engine ray; end TLS in front of it, in a load balancer.")
    if settings.allow_control:
        raise InputError(
            "--allow-control is not for --engine ray, where a request reaches one replica of many; change the "
            "repository and start the command again."
        )
    if settings.device == "cuda" and not cluster.gpus_per_replica:
        raise InputError("--device cuda needs --gpus-per-replica, such as 1 or 0.5: Ray hides the GPUs otherwise.")
    image = settings.canary_image
    return dataclasses.replace(
        settings,
        target=settings.target.resolve(),
        canary_image=None if image is None else image.resolve(),
        device=settings.device or ("cuda" if cluster.gpus_per_replica else "cpu"),
        threads=settings.threads or max(1, int(cluster.cpus_per_replica) // settings.instances),
    )


def grpc_options(settings: ServeSettings) -> dict[str, Any] | None:
    """Return the options of Ray Serve's gRPC side; None without gRPC."""
    if settings.grpc_port is None:
        return None
    # The reflection would tell everybody the methods.
    return {"port": settings.grpc_port, "grpc_servicer_functions": [ADD_SERVICER], "enable_reflection": False}


def deployment_options(settings: ServeSettings, cluster: ClusterSettings) -> dict[str, Any]:
    """Return the options of Ray Serve's deployment (docs.ray.io/en/latest/serve/api, ``serve.deployment``)."""
    options: dict[str, Any] = {
        "name": APPLICATION,
        "ray_actor_options": {"num_cpus": cluster.cpus_per_replica, "num_gpus": cluster.gpus_per_replica},
        # The queues are the models' own, which refuse with a sentence; Ray's would stand in front of them.
        "max_ongoing_requests": settings.max_connections,
        "graceful_shutdown_timeout_s": settings.drain_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        "logging_config": {"enable_access_log": settings.access_log},
    }
    if cluster.max_replicas == cluster.min_replicas:
        return {**options, "num_replicas": cluster.min_replicas}
    autoscaling = {
        "min_replicas": cluster.min_replicas,
        "max_replicas": cluster.max_replicas,
        "target_ongoing_requests": cluster.target_requests,
    }
    return {**options, "autoscaling_config": autoscaling}
