"""Servers to compare with, each in a process of its own on free ports, and what a request to it looks like.

NVIDIA's Triton server is the one in the `nvidia-pytriton` wheel, with the tests' stand-in for its ONNX Runtime backend
(`scripts/setup-triton`). PyTriton and LitServe need environments of their own, which conflict with ours:

    python3 -m venv .venv-pytriton
    .venv-pytriton/bin/pip install nvidia-pytriton==0.7.0 'numpy<2' onnxruntime==1.31.1
    python3 -m venv .venv-litserve
    .venv-litserve/bin/pip install litserve==0.2.19 onnxruntime==1.31.1
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aps_deploy.bench.payloads import Payload
from aps_deploy.bench.target import Input
from tests.serving.package import triton
from tests.serving.ports import free_ports

ROOT = Path(__file__).resolve().parent.parent
MODEL = "net"

_START_S = 120.0
_PYTRITON = """
import sys
import numpy as np, onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
file, side, threads, *ports = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
@batch
def infer(images):
    return {"logits": session.run(["logits"], {"images": images})[0]}
http, grpc, metrics = map(int, ports)
with Triton(config=TritonConfig(http_port=http, grpc_port=grpc, metrics_port=metrics)) as server:
    shape = (3, int(side), int(side))
    server.bind(
        "net", infer, [Tensor(name="images", dtype=np.float32, shape=shape)],
        [Tensor(name="logits", dtype=np.float32, shape=(-1,))],
        config=ModelConfig(max_batch_size=16, batcher=DynamicBatcher()),
    )
    server.serve()
"""
_LITSERVE = """
import base64, sys
import litserve, numpy as np, onnxruntime
file, side, threads, port = sys.argv[1:]
class Net(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(threads)
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    def decode_request(self, request):
        return np.frombuffer(base64.b64decode(request["image"]), np.float32).reshape(3, int(side), int(side))
    def batch(self, images):
        return np.stack(images)
    def predict(self, images):
        return self.session.run(["logits"], {"images": images})[0]
    def unbatch(self, logits):
        return list(logits)
    def encode_response(self, logits):
        return {"logits": base64.b64encode(logits.tobytes()).decode()}
if __name__ == "__main__":
    api = Net(max_batch_size=16, batch_timeout=0.001)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=int(port), log_level="error", generate_client_file=False
    )
"""


@dataclasses.dataclass(frozen=True)
class Peer:
    """A running server.

    Attributes:
        name: ``own``, ``tritonserver``, ``pytriton`` or ``litserve``.
        url: where requests go.
        body: what a request carries.
        headers: with these headers.
        statistics: where the protocol's statistics are; None where it has none.
        group: its process group, which sleeps unless it is `awake`; None where it never does.
    """

    name: str
    url: str
    body: bytes
    headers: dict[str, str]
    statistics: str | None
    group: int | None = None

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run meanwhile: some servers look for work all the time, and take it from those that are measured."""
        if self.group is None:
            yield
            return
        os.killpg(self.group, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.group, signal.SIGSTOP)

    def ask(self) -> bytes:
        """Return the answer to one request."""
        request = urllib.request.Request(self.url, self.body, self.headers, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def runs(self) -> tuple[int, int]:
        """Return how many images it answered so far, and in how many runs."""
        assert self.statistics is not None
        with urllib.request.urlopen(self.statistics, timeout=60) as answer:
            (found,) = json.load(answer)["model_stats"]
        return int(found["inference_count"]), int(found["execution_count"])


def missing(name: str) -> str | None:
    """Return why a server cannot be started here; None where it can."""
    if name == "own":
        return None
    if name == "tritonserver":
        return triton.MISSING
    return None if _python(name).is_file() else f"no {_python(name).parent.parent.name}: see benchmarks/peers.py"


@contextlib.contextmanager
def peer(name: str, file: Path, image: npt.NDArray[np.float32], num_threads: int, folder: Path) -> Iterator[Peer]:
    """Run a server on a model, with at most 16 images in a batch, until the end.

    Args:
        name: which server.
        file: an ONNX file with the input ``images`` and the output ``logits``.
        image: (1, 3, H, W), what the requests ask.
        num_threads: threads of a run.
        folder: an empty one, for the server's files.
    """
    side = image.shape[2]
    body, header_length = Payload([Input("images", "FP32", image.shape)], [image.tobytes()]).http_body()
    headers = {"Inference-Header-Content-Length": str(header_length), "Content-Type": "application/octet-stream"}

    def protocol(port: int, group: int | None = None) -> Peer:
        model = f"http://127.0.0.1:{port}/v2/models/{MODEL}"
        return Peer(name, f"{model}/infer", body, headers, f"{model}/stats", group)

    if name == "tritonserver":
        with triton.triton(_repository(file, side, num_threads, folder / "models"), folder) as server:
            yield protocol(server.where.port)
        return
    ports = [str(port) for port in free_ports(3)]
    http, place = int(ports[0]), (str(file), str(side), str(num_threads))
    if name == "own":
        repository = _repository(file, side, num_threads, folder / "models")
        options = ["--port", ports[0], "--grpc-port", ports[1], "--threads", str(num_threads)]
        command = [sys.executable, "-m", "aps_deploy.cli", "serve", str(repository), *options]
        with _process(command, http, "/v2/health/ready") as group:
            yield protocol(http, group)
    elif name == "pytriton":
        command = [str(_python(name)), "-c", _PYTRITON, *place, *ports]
        with _process(command, http, f"/v2/models/{MODEL}/ready", _libraries()) as group:
            # It refuses to tell its statistics, and does not survive being stopped.
            os.killpg(group, signal.SIGCONT)
            yield dataclasses.replace(protocol(http), statistics=None)
    else:
        script = folder / "litserve_server.py"  # its workers import it
        script.write_text(_LITSERVE)
        with _process([str(_python(name)), str(script), *place, ports[0]], http, "/health") as group:
            content = json.dumps({"image": base64.b64encode(image.tobytes()).decode()}).encode()
            yield Peer(
                name, f"http://127.0.0.1:{http}/predict", content, {"Content-Type": "application/json"}, None, group
            )


def _python(name: str) -> Path:
    return Path(os.environ.get(f"APS_DEPLOY_{name.upper()}_VENV") or ROOT / f".venv-{name}") / "bin" / "python"


def _libraries() -> dict[str, str]:
    # Triton's Python stub takes the first libpython on the loader's path, which has to be this environment's.
    code = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    found = subprocess.run([_python("pytriton"), "-c", code], capture_output=True, text=True, check=True)
    return {"LD_LIBRARY_PATH": found.stdout.strip()}


@contextlib.contextmanager
def _process(command: list[str], port: int, path: str, variables: dict[str, str] | None = None) -> Iterator[int]:
    environment = {**os.environ, **(variables or {})}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + _START_S
        while not _is_ready(port, path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command[:3])} does not start")
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGSTOP)
        yield process.pid
    finally:
        # With everything that it started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            os.killpg(process.pid, signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _is_ready(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _repository(file: Path, side: int, num_threads: int, folder: Path) -> Path:
    """Write a repository that both servers read as it is."""
    import onnxruntime

    version = folder / MODEL / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").symlink_to(file.resolve())
    types = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}
    outputs = ", ".join(
        f'{{ name: "{output.name}" data_type: {types[output.type]} dims: [{output.shape[1]}] }}'
        for output in onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).get_outputs()
    )
    (folder / MODEL / "config.pbtxt").write_text(
        f'name: "{MODEL}" platform: "onnxruntime_onnx" max_batch_size: 16\n'
        f'input [{{ name: "images" data_type: TYPE_FP32 dims: [3, {side}, {side}] }}]\n'
        f"output [{outputs}]\n"
        "dynamic_batching {}\n"
        "instance_group [{ count: 1 kind: KIND_CPU }]\n"
        f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{num_threads}" }} }}\n'
    )
    return folder
