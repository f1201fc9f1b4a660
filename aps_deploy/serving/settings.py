"""Everything the server can be told, checked before a port is opened."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal, get_args

from aps_deploy.errors import InputError
from aps_deploy.runtimes.threads import MAX_THREADS

Batching = Literal["exact", "always", "never"]
OnnxRuntime = Literal["onnxruntime", "onnxruntime-kernels"]
"""What runs ONNX files in the server, by the names of `aps_deploy.runtimes.availability`."""

# More is a slip of the hand, or more than the integers hold that gRPC and the event loop take: 32 bits of milliseconds.
_MOST_SECONDS = 1_000_000
_MOST_WHOLE = {"threads": MAX_THREADS, "instances": 1024, "max_batch": 65_536, "max_connections": 1 << 20}
_MOST = {
    "max_body_mb": 1 << 20,
    "max_image_megapixels": 1_000_000,
    "max_header_kb": 1 << 20,
    "header_timeout_s": _MOST_SECONDS,
    "body_timeout_s": _MOST_SECONDS,
}
_MOST_OR_NONE = {"batch_delay_ms": 1000 * _MOST_SECONDS, "drain_delay_s": _MOST_SECONDS, "drain_s": _MOST_SECONDS}


@dataclasses.dataclass(frozen=True)
class ServeSettings:
    """What to serve, where, and within which limits.

    Attributes:
        target: an ONNX file or engine, or a folder in Triton's layout.
        host: address to listen on.
        port: HTTP port; 0 takes a free one.
        grpc_port: gRPC port; 0 takes a free one, None serves no gRPC.
        runtime: what runs ONNX files.
        device: ``cpu``, ``cuda`` or None: CUDA where it works.
        threads: threads of one run; None shares the cores among the instances.
        instances: sessions per model, each on its own thread.
        max_batch: most images in one run.
        batch_delay_ms: how long the first image of a batch waits for others.
        batching: which models join requests: those whose answers do not depend on it (``exact``), all, or none.
        max_queue: requests that may wait per model; more are refused.
        deadline_ms: how long a request may wait before it is refused; None for ever.
        max_body_mb: largest request body, compressed or not, in MiB.
        max_image_megapixels: largest image that is decoded.
        max_elements: most tensor elements in one request.
        max_header_kb: largest first line and headers of a request together, in KiB.
        max_connections: connections that are served at once, by HTTP and by gRPC each; also gRPC's calls at once.
        header_timeout_s: how long the headers of a request may take to arrive.
        body_timeout_s: how long the body of a request may take to arrive, and a client to read its response.
        drain_delay_s: how long SIGTERM leaves the ports open after readiness went off.
        drain_s: how long accepted requests may take after the ports closed.
        require_certificate: whether every file must have passed `aps-deploy verify`; a model of `aps-deploy package`
            says so itself.
        canary_s: every how many seconds a stored image is shifted through every model; None for never.
        canary_image: image file for that; None takes a model's own, or one inside the package.
        canary_unready: whether the server is not ready while a model fails its canary.
        tls_cert: PEM file with the certificate chain for TLS; None serves without TLS.
        tls_key: PEM file with its key.
        token: what clients must send as ``Authorization: Bearer TOKEN``; None lets everybody in.
        allow_hosts: names besides localhost that a server on this machine alone and without a token answers to.
        allow_control: whether clients may load and unload models.
        access_log: whether answered requests are logged, not only refused and failed ones.
        traces: address of the OTLP collector that gets OpenTelemetry's traces; None asks the environment.
        page: whether ``GET /`` is the page on which a picture can be moved.
    """

    target: Path
    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = 8001
    runtime: OnnxRuntime = "onnxruntime"
    device: str | None = None
    threads: int | None = None
    instances: int = 1
    max_batch: int = 16
    batch_delay_ms: float = 0.0
    batching: Batching = "exact"
    max_queue: int = 256
    deadline_ms: float | None = 10_000.0
    max_body_mb: float = 64.0
    max_image_megapixels: float = 50.0
    max_elements: int = 1 << 24
    max_header_kb: float = 16.0
    max_connections: int = 512
    header_timeout_s: float = 30.0
    body_timeout_s: float = 30.0
    drain_delay_s: float = 0.5
    drain_s: float = 30.0
    require_certificate: bool = False
    canary_s: float | None = None
    canary_image: Path | None = None
    canary_unready: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token: str | None = dataclasses.field(default=None, repr=False)
    allow_hosts: tuple[str, ...] = ()
    allow_control: bool = False
    access_log: bool = False
    traces: str | None = None
    page: bool = True

    def __post_init__(self) -> None:
        for name in ("max_queue", "max_elements"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name, most in _MOST_WHOLE.items():
            value = getattr(self, name)
            _check(name, value, value is None or 1 <= value <= most, f"1 to {most}")
        for name, most in _MOST.items():
            _check(name, getattr(self, name), 0 < getattr(self, name) <= most, f"more than 0, at most {most}")
        for name, most in _MOST_OR_NONE.items():
            _check(name, getattr(self, name), 0 <= getattr(self, name) <= most, f"0 to {most}")
        for name in ("port", "grpc_port"):
            value = getattr(self, name)
            _check(name, value, value is None or 0 <= value < 1 << 16, "0 to 65535")
        _check("deadline_ms", self.deadline_ms, self.deadline_ms is None or self.deadline_ms > 0, "more than 0")
        if self.canary_s is None:
            for option, is_given in (
                ("--canary-image", self.canary_image is not None),
                ("--canary-unready", self.canary_unready),
            ):
                if is_given:
                    raise InputError(f"{option} is for --canary SECONDS, which is not given.")
        elif not 0 < self.canary_s < math.inf:
            raise InputError(f"--canary is {self.canary_s!r}; accepted: a number of seconds, more than 0.")
        _check("runtime", self.runtime, self.runtime in get_args(OnnxRuntime), ", ".join(get_args(OnnxRuntime)))
        _check("batching", self.batching, self.batching in get_args(Batching), ", ".join(get_args(Batching)))
        if self.port and self.port == self.grpc_port:
            raise InputError(f"--port and --grpc-port are both {self.port}; give two different ones.")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("--tls-cert and --tls-key go together; give both, or neither.")
        if self.token is not None and (not self.token or not self.token.isascii() or not self.token.isprintable()):
            raise InputError("the token is empty or holds characters that no header may carry; use letters and digits.")

    @property
    def max_body_bytes(self) -> int:
        """Largest request body in bytes."""
        return int(self.max_body_mb * (1 << 20))

    @property
    def max_header_bytes(self) -> int:
        """Largest first line and headers in bytes."""
        return int(self.max_header_kb * (1 << 10))

    @property
    def max_image_pixels(self) -> int:
        """Largest image in pixels."""
        return int(self.max_image_megapixels * 1e6)


def _check(name: str, value: object, is_valid: bool, accepted: str) -> None:
    if not is_valid:
        raise InputError(f"--{name.replace('_', '-')} is {value!r}; accepted: {accepted}.")
