"""Which process of a run this is, and what the processes of a run do together.

Alone, every method does what its name says without any communication. Among several (PyTorch's `torchrun` and
`aps-deploy train --nproc-per-node` start them, and say who is who in the environment) they are collectives: every
process calls them, in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from aps_deploy.errors import ApsError, InputError
from aps_deploy.training.meeting import engine_store, store_of_this_start
from aps_deploy.training.precision import find_device

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=30)
"""Longest wait for another process: the evaluation of ImageNet by one of them, or a slow disk, must fit into it."""


class PeerError(ApsError):
    """Another process of the run failed, and says itself why."""


@dataclass(frozen=True)
class Process:
    """Rank of this process among those that train together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Rank among the processes of this machine: the number of its GPU."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.world_size == 1

    def device(self, found: torch.device) -> torch.device:
        """Return where this process computes: among several, the GPU of its own where GPUs are used."""
        return found if self.is_alone or found.type != "cuda" else torch.device("cuda", self.local_rank)

    def share(self, items: Tensor) -> Tensor:
        """Return this process's part of a global batch (B, ...); every row belongs to one process."""
        return items[self.rank :: self.world_size]

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes, on the device it is on."""
        if not self.is_alone:
            values = values.clone()
            # NCCL moves tensors of a GPU only.
            on_gpu = dist.get_backend() == "nccl"
            moved = values.cuda(self.local_rank) if on_gpu else values
            dist.all_reduce(moved)
            values = moved.to(values.device)
        return values

    def take_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Give each of these tensors the values that it has in the main process."""
        if self.is_alone:
            return
        on_gpu = dist.get_backend() == "nccl"
        for tensor in tensors:
            moved = tensor.detach().cuda(self.local_rank) if on_gpu else tensor.detach().clone()
            dist.broadcast(moved, src=0)
            tensor.detach().copy_(moved)

    def gather(self, items: Sequence[str]) -> list[str]:
        """Return the texts of all processes, in the order of their ranks."""
        if self.is_alone:
            return list(items)
        found: list[list[str] | None] = [None] * self.world_size
        dist.all_gather_object(found, list(items))
        return [item for part in found if part is not None for item in part]

    def from_main(self, values: Tensor) -> Tensor:
        """Return the main process's tensor; those of the others have its shape and dtype."""
        return self.sum(values if self.is_main else torch.zeros_like(values))

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return flag if self.is_alone else bool(self.sum(torch.tensor([int(flag)])).item())

    def together(self, action: Callable[[], T]) -> T:
        """Return the result of an action that every process takes, or raise in all of them where one fails.

        Without it the others would wait for the one that failed until they give up.

        Raises:
            ApsError: what the action raised here.
            PeerError: it raised in another process.
        """
        failure: ApsError | None = None
        try:
            result = action()
        except ApsError as error:
            failure = error
        if self.any(failure is not None):
            raise failure or PeerError("another process of this run failed; its message says why.")
        return result

    def on_main(self, action: Callable[[], object]) -> None:
        """Let the main process act while the others wait; a failure of it is a failure of all.

        Raises:
            ApsError: what the action raised, in the main process.
            PeerError: it raised there, in the others.
        """
        self.together(action if self.is_main else lambda: None)


def check_devices(device: str | None, backend: str | None, num_processes: int) -> str:
    """Return ``cpu`` or ``cuda``: where the processes of this machine compute.

    Args:
        device: as in `joined_processes`.
        backend: as in `joined_processes`.
        num_processes: processes on this machine.

    Raises:
        InputError: there are fewer GPUs than processes, or the backend does not fit the device.
    """
    kind = find_device(device).type
    if backend == "nccl" and kind != "cuda":
        raise InputError("--dist-backend nccl needs CUDA devices; use gloo on the CPU.")
    if kind == "cuda" and num_processes > torch.cuda.device_count():
        raise InputError(
            f"{num_processes} processes on this machine need a GPU each, and {torch.cuda.device_count()} CUDA devices "
            "were found; give --nproc-per-node that number."
        )
    return kind


@contextmanager
def joined_processes(device: str | None, backend: str | None) -> Iterator[Process]:
    """Join the processes that the launcher started together with this one, and leave them at the end.

    Args:
        device: ``cpu``, ``cuda`` or None: CUDA where it works, one GPU per process.
        backend: ``nccl`` or ``gloo``; None takes what fits the device.

    Raises:
        InputError: there are fewer GPUs than processes on this machine, or the backend does not fit the device.
        RuntimeError: the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        yield Process()
        return
    process = Process(
        int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    )
    kind = check_devices(device, backend, process.local_rank + 1)
    if kind == "cuda":
        torch.cuda.set_device(process.local_rank)
    # A failure is no ApsError: what a restart may mend (a process that died meanwhile) is for the launcher.
    _join(process, backend or ("nccl" if kind == "cuda" else "gloo"))
    try:
        yield process
    finally:
        dist.destroy_process_group()


def _join(process: Process, backend: str) -> None:
    shared = engine_store(_TIMEOUT)
    if shared is None:  # whatever else started the processes says in the environment where they meet
        dist.init_process_group(backend, timeout=_TIMEOUT)
        return
    store = store_of_this_start(shared, process.rank, process.world_size, _TIMEOUT)
    dist.init_process_group(backend, store=store, rank=process.rank, world_size=process.world_size, timeout=_TIMEOUT)
