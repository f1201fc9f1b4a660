"""A server in a process of its own that says on request what it holds: ``python -m ... REPOSITORY``.

Prints one line of JSON with its ports, then one with what it holds for every line that it reads; ends at the end of
its standard input. In a process of its own, so that what the tests hold is in no count, and a crash is theirs to see.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
from pathlib import Path

import uvloop

from aps_deploy.serving.running import Addresses, Stopping, serve
from aps_deploy.serving.settings import ServeSettings


def held(loop: asyncio.AbstractEventLoop) -> dict[str, int]:
    """Return what this process holds."""
    gc.collect()
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "tasks": len(asyncio.all_tasks(loop)),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
        "resident_bytes": resident_pages * os.sysconf("SC_PAGE_SIZE"),
    }


def main(repository: str) -> None:
    settings = ServeSettings(
        Path(repository), port=0, grpc_port=0, threads=1, drain_delay_s=0.0, body_timeout_s=2.0, header_timeout_s=2.0
    )

    def started(where: Addresses, stopping: Stopping) -> None:
        loop = asyncio.get_running_loop()

        def asked() -> None:
            if sys.stdin.readline():
                print(json.dumps(held(loop)), flush=True)
            else:
                loop.remove_reader(sys.stdin.fileno())
                stopping.ask()

        loop.add_reader(sys.stdin.fileno(), asked)
        print(json.dumps({"port": where.port, "grpc_port": where.grpc_port}), flush=True)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, started=started))


if __name__ == "__main__":
    main(sys.argv[1])
