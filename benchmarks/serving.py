"""What lies between a client and the network: throughput over HTTP beside the bare session and beside other servers.

    python -m benchmarks.serving              # every setting, about ten minutes; the client is wrk (apt install wrk)
    python -m benchmarks.serving --rounds 2 --settings two_convolutions:32:1
    python -m benchmarks.serving --write      # also benchmarks/results/serving.json; other settings in it stay

16 clients on this machine ask one image each, as raw tensors (LitServe: base64 in JSON). All servers of a setting run
at once and are loaded in turns; ours and LitServe are stopped while they wait, Triton and PyTriton are idle. Each runs
ONNX Runtime with the same number of threads and joins up to 16 images. Triton is there in every setting, the others
where a bar names them. The *session* is ONNX Runtime in a loop, with as many threads, and with as many images in a run
as our server had on average in the same round.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from rich.table import Table

from aps_deploy.bench.timing import ratios, spread
from aps_deploy.console import print_table
from aps_deploy.files import read_json
from aps_deploy.models import create_model
from aps_deploy.runtimes.onnxruntime_session import session_options, start_session
from benchmarks.machine import machine
from benchmarks.networks import exported
from benchmarks.peers import Peer, missing, peer
from benchmarks.reporting import RESULTS_FOLDER, add_write_option, cells, judged, keep, parse_setting, run_command

RESULTS = RESULTS_FOLDER / "serving.json"
TOY = "two_convolutions"
SETTINGS = ("resnet20_aps3:32:0", "resnet18_aps3:224:0", f"{TOY}:32:1")
PEERS = ("tritonserver", "pytriton", "litserve")
NUM_CLIENTS = 16

# What the project wants of its server over others, by network.
LEAST = {
    "resnet20_aps3": {"session": 0.8, "tritonserver": 0.9},
    "resnet18_aps3": {"session": 0.95},
    TOY: {"tritonserver": 0.6, "pytriton": 3.0, "litserve": 3.0},
}

_SCRIPT = """
local file = io.open(os.getenv("BENCHMARK_BODY"), "rb")
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
for name, value in string.gmatch(os.getenv("BENCHMARK_HEADERS"), "([^:\\n]+): ([^\\n]+)") do
  wrk.headers[name] = value
end
done = function(summary, latency)
  local errors = summary.errors
  io.stderr:write(string.format('{"requests": %d, "us": %d, "p50_us": %d, "p99_us": %d, "errors": %d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True)
class Setting:
    """A network, the side of its images and the threads of a run (0: one a core); written ``NAME:SIDE:THREADS``."""

    name: str
    side: int
    threads: int

    @staticmethod
    def parse(text: str) -> Setting:
        """Return the setting that ``text`` names."""
        name, (side, threads) = parse_setting(text, "NAME:SIDE:THREADS")
        return Setting(name, side, threads)

    @property
    def num_threads(self) -> int:
        """Threads of a run."""
        return self.threads or len(os.sched_getaffinity(0))

    def model(self) -> onnx.ModelProto:
        """Return its file, with random weights."""
        if self.name == TOY:
            return two_convolutions(self.side)
        return exported(create_model(self.name).eval(), self.side)


@dataclass(frozen=True)
class Run:
    """What one client program measured.

    Attributes:
        rate: answers per second.
        p50_ms: half of the answers took at most so long; `p99_ms` alike.
        client_cpu: cores that the client took.
        mean_batch: images in a run of the server; None where it does not tell.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    client_cpu: float
    mean_batch: float | None


def main() -> None:
    options = _options()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; it is the client of this benchmark (Debian, Ubuntu: apt install wrk)")
    left_out = {name: why for name in options.peers if (why := missing(name)) is not None}
    for name, why in left_out.items():
        print(f"left out: {name} ({why})", file=sys.stderr)
    names = ["own", *(name for name in options.peers if name not in left_out)]
    measured = []
    for setting in (Setting.parse(text) for text in options.settings):
        wanted = {"own", "tritonserver", *LEAST.get(setting.name, {})}
        compared = [name for name in names if name in wanted]
        measured.append(measure(setting, compared, options.rounds, options.seconds))
    print_table(_table(measured))
    if options.write:
        told = {**machine(), "client": "wrk", "num_clients": NUM_CLIENTS, "left_out": left_out}
        keep(options.write, {**told, "measured": [*_kept(options.write, told, measured), *measured]})


def _kept(results: Path, told: Mapping[str, Any], measured: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what stands in the results of other settings, where it was measured on the same machine."""
    if not results.exists():
        return []
    before = read_json(results)
    if {key: before.get(key) for key in told} != json.loads(json.dumps(told)):
        return []
    new = {entry["setting"] for entry in measured}
    return [entry for entry in before["measured"] if entry["setting"] not in new]


def measure(setting: Setting, names: Sequence[str], rounds: int, seconds: int) -> dict[str, Any]:
    """Return the rates of the servers and of the session, and the ratios of ours over the others with their bars."""
    image = np.random.default_rng(0).standard_normal((1, 3, setting.side, setting.side)).astype(np.float32)
    runs: dict[str, list[Run]] = {name: [] for name in names}
    session_rates = []
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        file = Path(place) / "network.onnx"
        onnx.save(setting.model(), file)
        session = start_session(str(file), "cpu", session_options(setting.num_threads), "the benchmark's file")
        expected: bytes = session.run(["logits"], {"images": image})[0].tobytes()
        servers = []
        for name in names:
            folder = Path(place) / name
            folder.mkdir()
            servers.append(stack.enter_context(peer(name, file, image, setting.num_threads, folder)))
        for server in servers:
            with server.awake():
                check(server, expected)
                load(server, seconds, Path(place))  # warm-up
        for number in range(rounds):
            turn = number % len(servers)
            for server in servers[turn:] + servers[:turn]:
                with server.awake():
                    runs[server.name].append(load(server, seconds, Path(place)))
            batch = round(runs["own"][-1].mean_batch or 1)
            session_rates.append(session_rate(session, image, batch, seconds))
        for server in servers:
            with server.awake():
                check(server, expected)
    rates = {**{name: [run.rate for run in found] for name, found in runs.items()}, "session": session_rates}
    return {
        "setting": f"{setting.name}:{setting.side}:{setting.num_threads}",
        "rounds": rounds,
        "seconds": seconds,
        "servers": {name: _summed(found) for name, found in runs.items()},
        "session_images_per_s": spread(session_rates),
        "ratios": _ratios(rates, LEAST.get(setting.name, {})),
    }


def check(server: Peer, expected: bytes) -> None:
    """Do nothing where the server's answer holds the bits of the session's logits.

    Raises:
        RuntimeError: it does not.
    """
    answer = server.ask()
    if expected not in answer and base64.b64encode(expected) not in answer:
        raise RuntimeError(f"{server.name} answers something else than the session")


def load(server: Peer, seconds: int, folder: Path) -> Run:
    """Load a server with wrk for so many seconds.

    Raises:
        RuntimeError: a request was not answered.
    """
    script, body = folder / "post.lua", folder / "body"
    script.write_text(_SCRIPT)
    body.write_bytes(server.body)
    headers = "\n".join(f"{name}: {value}" for name, value in server.headers.items())
    environment = {**os.environ, "BENCHMARK_BODY": str(body), "BENCHMARK_HEADERS": headers}
    command = ["wrk", "-t1", f"-c{NUM_CLIENTS}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script), server.url]
    before, spent = server.runs() if server.statistics else (0, 0), _children_cpu_s()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    spent = _children_cpu_s() - spent
    found = json.loads(done.stderr)
    if found["errors"] or not found["requests"]:
        raise RuntimeError(f"{server.name} answered {found['requests']} requests, and {found['errors']} not at all")
    mean_batch = None
    if server.statistics:
        images, runs = (after - first for after, first in zip(server.runs(), before, strict=True))
        mean_batch = images / runs if runs else None
    passed_s = found["us"] / 1e6
    rate = found["requests"] / passed_s
    return Run(rate, found["p50_us"] / 1e3, found["p99_us"] / 1e3, spent / passed_s, mean_batch)


def session_rate(session: Any, image: npt.NDArray[np.float32], batch: int, seconds: float) -> float:
    """Return the images per second of a bare session."""
    images = np.repeat(image, batch, axis=0)
    session.run(None, {"images": images})
    start, runs = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        session.run(None, {"images": images})
        runs += 1
    return runs * batch / passed


def two_convolutions(side: int) -> onnx.ModelProto:
    """Return a network of two strided convolutions, so small that what is around it is all that is measured."""
    generator = np.random.default_rng(0)
    weights = {"first": (16, 3, 3, 3), "second": (32, 16, 3, 3), "classifier": (32, 10)}
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["a"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "classifier"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        TOY,
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 3, side, side])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 10])],
        [
            numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32) / 8, name)
            for name, shape in weights.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _summed(runs: Sequence[Run]) -> dict[str, Any]:
    batches = [run.mean_batch for run in runs if run.mean_batch is not None]
    return {
        "images_per_s": spread([run.rate for run in runs]),
        "p50_ms": spread([run.p50_ms for run in runs])["median"],
        "p99_ms": spread([run.p99_ms for run in runs])["median"],
        "client_cpu": spread([run.client_cpu for run in runs])["median"],
        "mean_batch": spread(batches)["median"] if batches else None,
    }


def _ratios(rates: Mapping[str, Sequence[float]], least: Mapping[str, float]) -> list[dict[str, Any]]:
    others = [name for name in rates if name != "own"]
    return [
        {"ratio": f"own/{name}", **judged(spread(ratios(rates["own"], rates[name])), at_least=least.get(name))}
        for name in others
    ]


def _table(measured: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=f"{NUM_CLIENTS} clients over HTTP: images per second, and ratios of the same round")
    columns = ("network:side:threads", "server", "images/s", "p50 ms", "p99 ms", "client", "batch", "own over it")
    for column in (*columns, "quartiles", "bar", ""):
        table.add_column(column)
    for entry in measured:
        compared = {row["ratio"]: row for row in entry["ratios"]}
        for name, found in entry["servers"].items():
            batch = "" if found["mean_batch"] is None else f"{found['mean_batch']:.1f}"
            times = (f"{found['images_per_s']['median']:.0f}", f"{found['p50_ms']:.2f}", f"{found['p99_ms']:.2f}")
            ratio = cells(compared[f"own/{name}"]) if name != "own" else ("", "", "", "")
            table.add_row(entry["setting"], name, *times, f"{found['client_cpu']:.2f}", batch, *ratio)
        rate = f"{entry['session_images_per_s']['median']:.0f}"
        table.add_row(entry["setting"], "session", rate, "", "", "", "as own", *cells(compared["own/session"]))
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Throughput of the server beside the session and other servers.")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="NAME:SIDE:THREADS; 0 threads: one a core")
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS, help="servers to compare with")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is loaded")
    parser.add_argument("--seconds", type=int, default=4, help="how long each time; wrk takes whole seconds")
    add_write_option(parser, RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
