"""Two processes of a run without a launcher: what one of them does can be looked into, and nothing is started again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from aps_deploy.training.process import Process

WORLD_SIZE = 2
_TIMEOUT = timedelta(seconds=60)

Action = Callable[..., Any]


def run_ranks(action: Action, folder: Path, *arguments: Any) -> list[Any]:
    """Return what `action(process, *arguments)` returned in each of two gloo processes.

    Args:
        action: A function of a module, which a spawned process can import.
        folder: An empty place for what the processes tell each other, and for their results.
        arguments: What it is called with; they are pickled.
    """
    folder.mkdir(parents=True)
    torch.multiprocessing.spawn(_work, args=(folder, action, arguments), nprocs=WORLD_SIZE)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD_SIZE)]


def _work(rank: int, folder: Path, action: Action, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=WORLD_SIZE, timeout=_TIMEOUT
    )
    try:
        torch.save(action(Process(rank, WORLD_SIZE, rank), *arguments), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
