"""`aps-deploy serve --engine ray` as a command, in the environment that has Ray (scripts/setup-ray makes .venv-ray)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.serving.ports import free_ports

ROOT = Path(__file__).resolve().parents[3]
VENV = Path(os.environ.get("APS_DEPLOY_RAY_VENV") or ROOT / ".venv-ray")
PYTHON = VENV / "bin" / "python"
MISSING = None if PYTHON.is_file() else f"no Ray in {VENV.name}: run scripts/setup-ray"


def environment(folder: str) -> dict[str, str]:
    """Return what a command of a cluster needs: this checkout, and a folder, ports and sockets that nobody has."""
    statistics, metrics = free_ports(2)
    first = random.SystemRandom().randrange(31_000, 58_000, 200)
    return os.environ | {
        # Replicas of two clusters on one host would share the ports, and the requests.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 90),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first + 100),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first + 190),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_TMPDIR": folder,
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
    }


def command(target: Path, ports: tuple[int, int], *options: str) -> list[str]:
    """Return the command with its ports, HTTP's and gRPC's; of an option that is given twice the last holds."""
    own = ("--engine", "ray", "--ray-address", "local", "--cpus-per-replica", "0.5")
    listening = ("--port", str(ports[0]), "--grpc-port", str(ports[1]))
    return [str(PYTHON), "-m", "aps_deploy.cli", "serve", str(target), *own, *listening, *options]


@contextlib.contextmanager
def on_ray(target: Path, log: Path, *options: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Serve on a new cluster of this host; yield the HTTP port and the command, which is told to stop at the end."""
    port, grpc_port = free_ports(2)
    output = log.with_suffix(".out")
    # Not in the test's own folder, whose long name no socket may have.
    with tempfile.TemporaryDirectory(prefix="ray") as folder, log.open("wb") as errors, output.open("wb") as answers:
        process = subprocess.Popen(
            command(target, (port, grpc_port), *options),
            stdout=answers,
            stderr=errors,
            cwd=ROOT,
            env=environment(folder),
        )
        try:
            wait_for_line(output, "ready: ", process, log)
            yield port, process
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()
            process.wait()


def wait_for_line(output: Path, words: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while words not in output.read_text():
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.2)
