"""The server as people run it: a process of its own, which can be killed and whose memory can be looked at."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class ServerProcess:
    """A server that said where it listens.

    Attributes:
        process: the process.
        port: its HTTP port.
        grpc_port: its gRPC port.
    """

    def __init__(self, process: subprocess.Popen[str], port: int, grpc_port: int) -> None:
        self.process = process
        self.port = port
        self.grpc_port = grpc_port

    @property
    def resident_mib(self) -> float:
        """Memory that it holds, by Linux' account."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    @property
    def processor_s(self) -> float:
        """Processor time that it took so far; on an idle machine at least as long as its start."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def server_process(target: Path, *options: str) -> Iterator[ServerProcess]:
    """Start `aps-deploy serve`, on free ports unless told, and kill it at the end."""
    command = [sys.executable, "-m", "aps_deploy.cli", "serve", str(target)]
    ports = [] if "--port" in options else ["--port", "0", "--grpc-port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, *ports, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"ready: http://127\.0\.0\.1:(\d+), gRPC on port (\d+)\n", line)
            assert found is not None, line
            yield ServerProcess(process, int(found[1]), int(found[2]))
        finally:
            process.kill()
