"""Two hosts in network namespaces, a Ray cluster over both, load on it, and one of them killed.

Run as ``unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc PYTHON -m ... REPOSITORY
FOLDER`` in the environment that has Ray; prints what was seen as one line of JSON. A host is a network, a mount and a
process namespace of its own: when its first process is killed, all of them are, at once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.serving.cluster.commands import command, environment, wait_for_line
from tests.serving.cluster.load import Load

NETWORK = "10.77.0"
CLUSTER_PORT, HTTP_PORT, GRPC_PORT = 6379, 8000, 8001
FIRST_REPLICA_PORT = 30_000  # Ray Serve's first port of replicas behind HAProxy
PATH = "/v2/models/tiny/infer"
ALIVE = "exec sleep 100000"
# Each host has sockets of its own where Ray looks for them.
PRIVATE = (
    "mkdir -p /tmp/ray /tmp/haproxy-serve && mount -t tmpfs tmpfs /tmp/ray && mount -t tmpfs tmpfs /tmp/haproxy-serve"
)


def run(*arguments: str) -> None:
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{arguments}: {result.stdout}{result.stderr}"


class Host:
    """One host.

    Args:
        number: 1 or 2, the last part of its address.
        folder: where its commands log.
    """

    def __init__(self, number: int, folder: Path) -> None:
        self.address = f"{NETWORK}.{number}"
        self.log = folder / f"host{number}.log"
        namespaces = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        self._process = subprocess.Popen(["unshare", *namespaces, "sh", "-c", f"{PRIVATE}; {ALIVE}"])
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.01)
        self.first_process = int(found[0])
        while b"sleep" not in Path(f"/proc/{self.first_process}/cmdline").read_bytes().split(b"\0")[0]:
            time.sleep(0.01)

    def inside(self, *arguments: str) -> list[str]:
        """Return a command as it runs on this host."""
        return ["nsenter", "--target", str(self.first_process), "--net", "--mount", "--pid", *arguments]

    def connect(self, bridge: str) -> None:
        """Give this host its address, and a cable to the bridge: one between the hosts would die with either."""
        own, far = f"own{self.address[-1]}", f"far{self.address[-1]}"
        run("ip", "link", "add", "name", own, "type", "veth", "peer", "name", far)
        run("ip", "link", "set", own, "netns", str(self.first_process))
        run("ip", "link", "set", far, "master", bridge, "up")
        run(*self.inside("ip", "address", "add", f"{self.address}/24", "dev", own))
        for name in (own, "lo"):
            run(*self.inside("ip", "link", "set", name, "up"))

    def start_ray(self, *arguments: str) -> None:
        """Start Ray on this host, with two cores and one GPU to reserve."""
        ray = str(Path(sys.executable).with_name("ray"))
        own = ("--node-ip-address", self.address, "--num-cpus", "2", "--num-gpus", "1", "--disable-usage-stats")
        with self.log.open("ab") as log:
            subprocess.run(
                self.inside(ray, "start", *own, *arguments), stdout=log, stderr=log, env=settings(), check=True
            )

    def kill(self) -> None:
        """Kill every process of this host at once."""
        self._process.kill()
        os.kill(self.first_process, 9)
        self._process.wait()


def settings() -> dict[str, str]:
    """Return the environment of the hosts' commands."""
    shared = ("RAY_SERVE_", "CUDA_VISIBLE_DEVICES")  # each host has ports and sockets of its own
    kept = {name: value for name, value in environment("/tmp").items() if not name.startswith(shared)}
    return {**kept, "RAY_AUTH_MODE": "disabled"}


def ask(host: Host, path: str, body: str) -> bytes:
    """Return what this host's front door answers."""
    url = f"http://{host.address}:{HTTP_PORT}{path}"
    client = ["curl", "--silent", "--show-error", "--fail", "--data-binary", body, url]
    return subprocess.run(host.inside(*client), capture_output=True, check=True).stdout


def main(repository: Path, folder: Path, body: str) -> dict[str, Any]:
    run("mount", "--make-rprivate", "/")
    one, two = Host(1, folder), Host(2, folder)
    run("ip", "link", "add", "name", "bridge", "type", "bridge")
    run("ip", "link", "set", "bridge", "up")
    one.connect("bridge")
    two.connect("bridge")
    one.start_ray("--head", "--port", str(CLUSTER_PORT), "--include-dashboard", "false")
    two.start_ray("--address", f"{one.address}:{CLUSTER_PORT}")
    options = ("--ray-address", f"{one.address}:{CLUSTER_PORT}", "--replicas", "2", "--gpus-per-replica", "1")
    where = ("--device", "cpu", "--host", "0.0.0.0")
    log, output = folder / "serve.log", folder / "serve.out"
    with log.open("wb") as errors, output.open("wb") as lines:
        serving = subprocess.Popen(
            one.inside(*command(repository, (HTTP_PORT, GRPC_PORT), *options, *where)),
            stdout=lines,
            stderr=errors,
            env=settings(),
        )
    wait_for_line(output, "ready: ", serving, log)
    expected = json.loads(ask(one, PATH, body))["outputs"]
    through_two = wait_for_answer(two, body)
    clients = subprocess.Popen(
        one.inside(sys.executable, "-m", f"{__package__}.two_hosts", "load", one.address, json.dumps(expected)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=settings(),
    )
    assert clients.stdin is not None
    clients.stdin.write(body.encode() + b"\n")
    clients.stdin.flush()
    time.sleep(5)
    answered_by_two = answered(two)
    killed = time.monotonic()
    two.kill()
    time.sleep(30)
    clients.stdin.write(b"\n")
    counts = json.loads(clients.communicate(timeout=100)[0])
    failures = [(when - killed, kind) for when, kind in counts.pop("failures")]
    one.kill()
    same = through_two == expected
    return {**counts, "failures": failures, "second_host_answered_the_same": same, "answered_by_two": answered_by_two}


def answered(host: Host) -> int:
    """Return how many requests the only replica of a host answered, by its own page of metrics."""
    url = f"http://{host.address}:{FIRST_REPLICA_PORT}/metrics"
    page = subprocess.run(host.inside("curl", "--silent", "--fail", url), capture_output=True, text=True, check=True)
    (line,) = re.findall(r'^nv_inference_request_success\{model="tiny",version="1"\} (\d+)', page.stdout, re.MULTILINE)
    return int(line)


def wait_for_answer(host: Host, body: str) -> Any:
    """Return the outputs that a host answers as soon as its front door knows the replicas."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return json.loads(ask(host, PATH, body))["outputs"]
        except subprocess.CalledProcessError as error:
            assert time.monotonic() < deadline, error.stderr
            time.sleep(0.5)


def send_until_told(address: str, expected: object) -> dict[str, Any]:
    """Send the request on standard input until another line comes; return what was counted."""
    body = sys.stdin.readline().encode()
    load = Load([(address, HTTP_PORT)], PATH, body, expected)
    load.start()
    sys.stdin.readline()
    before = load.counts.right
    counts = load.stop()
    return {"right": counts.right, "wrong": counts.wrong, "failures": counts.failures, "right_until_told": before}


if __name__ == "__main__":
    if sys.argv[1] == "load":
        print(json.dumps(send_until_told(sys.argv[2], json.loads(sys.argv[3]))))
    else:
        print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]).read_text())))
