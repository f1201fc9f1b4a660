"""NVIDIA's own Triton server on a repository, where the machine has it (scripts/setup-triton makes .venv-triton)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from aps_deploy.serving.running import Addresses
from tests.serving.ports import free_ports
from tests.serving.support import CLIENTS

ROOT = Path(__file__).resolve().parents[3]
VENV = Path(os.environ.get("APS_DEPLOY_TRITON_VENV") or ROOT / ".venv-triton")
MISSING = None if (VENV / "bin" / "python").is_file() else f"no Triton server in {VENV.name}: run scripts/setup-triton"


class Triton:
    """A server that is ready."""

    def __init__(self, where: Addresses) -> None:
        self.where = where

    def client(self, transport: str) -> object:
        port = self.where.port if transport == "http" else self.where.grpc_port
        return CLIENTS[transport].InferenceServerClient(f"127.0.0.1:{port}")


@contextlib.contextmanager
def triton(repository: Path, folder: Path) -> Iterator[Triton]:
    """Run the server on a repository until the end; ``folder`` is for its backends and its log.

    Raises:
        AssertionError: it ends, or is not ready within two minutes; shows its log.
    """
    http, grpc, metrics = free_ports(3)
    backends = _backends(folder / "backends")
    command = [
        *(str(_site_packages() / "pytriton/tritonserver/bin/tritonserver"), "--backend-directory", str(backends)),
        *("--model-repository", str(repository), "--metrics-port", str(metrics), "--http-port", str(http)),
        *("--grpc-port", str(grpc), "--http-address", "127.0.0.1", "--grpc-address", "127.0.0.1"),
    ]
    log = folder / "triton.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=_environment())
    try:
        _wait_until_ready(process, http, log)
        yield Triton(Addresses("127.0.0.1", http, grpc))
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        if _is_ready(port):
            return
        time.sleep(0.2)
    raise AssertionError(f"not ready in two minutes: {log.read_text()}")


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # nobody listens yet, or answers that it is not ready
        return False


def _site_packages() -> Path:
    (found,) = (VENV / "lib").glob("python3.*/site-packages")
    return found


def _backends(folder: Path) -> Path:
    """Make a folder of backends: Triton's Python backend, and the stand-in for ONNX Runtime's."""
    bundled = _site_packages() / "pytriton" / "tritonserver"
    version = _site_packages().parent.name.removeprefix("python")
    shutil.copytree(bundled / "backends" / "python", folder / "python")
    shutil.copy(bundled / "python_backend_stubs" / version / "triton_python_backend_stub", folder / "python")
    for name in ("onnxruntime", "tensorrt"):
        (folder / name).mkdir()
        shutil.copy(Path(__file__).with_name(f"{name}_backend.py"), folder / name / "model.py")
    return folder


def _environment() -> dict[str, str]:
    # The backend's stub finds packages through PATH and its libpython through the loader's path.
    code = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    libraries = subprocess.run([VENV / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    paths = [libraries.stdout.strip(), str(_site_packages() / "nvidia_pytriton.libs")]
    return os.environ | {"PATH": f"{VENV / 'bin'}:{os.environ['PATH']}", "LD_LIBRARY_PATH": ":".join(paths)}
