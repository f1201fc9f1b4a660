"""Starts a run in several processes with PyTorch's elastic engine, the one behind `torchrun`.

A process that dies is started again with all others, and the run goes on from its last saved step; samplers and
augmentation draw the same numbers again, so that it ends as if nothing had happened. What a person must mend (a wrong
path, a full disk, a loss that is not finite) is no reason to start again: such errors are returned, not raised.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aps_deploy.errors import ApsError, InputError
from aps_deploy.training.settings import TrainSettings

if TYPE_CHECKING:
    from aps_deploy.training.loop import TrainResult

DEFAULT_RUN_ID = "aps-deploy"
_LOCAL = "localhost:0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """In how many processes a run trains, and where they meet.

    Raises:
        InputError: values out of range, or several machines without a place to meet.
    """

    nproc_per_node: int | None = None
    """Processes on this machine; None: one, or with `multiprocessing_distributed` one per GPU."""
    nnodes: int | None = None
    """Machines, each of which runs the same command (default 1)."""
    node_rank: int | None = None
    """Number of this machine among several; None lets the machines agree on it."""
    rdzv_endpoint: str | None = None
    """`host:port` of one of the machines, where all of them meet; the authors' `tcp://host:port` is the same."""
    rdzv_id: str = DEFAULT_RUN_ID
    """Name of the run, the same on all machines, so that two runs can meet at one place."""
    max_restarts: int = 3
    """How often the processes are started again after one of them died."""
    multiprocessing_distributed: bool = False
    """The authors' flag: one process per GPU of this machine."""

    def __post_init__(self) -> None:
        # The authors' scripts write -1 for "not given".
        for name in ("nnodes", "node_rank"):
            if getattr(self, name) == -1:
                object.__setattr__(self, name, None)
        for name, lowest in (("nproc_per_node", 1), ("nnodes", 1), ("node_rank", 0)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise InputError(f"--{name.replace('_', '-')} is {value}; it must be at least {lowest}.")
        if self.nproc_per_node is not None and self.multiprocessing_distributed:
            raise InputError("--nproc-per-node and --multiprocessing-distributed exclude each other; give one of them.")
        if self.num_machines > 1 and self.endpoint is None:
            raise InputError(
                f"--nnodes is {self.num_machines}; give --rdzv-endpoint HOST:PORT, where the machines meet."
            )
        # One machine meets nobody, whatever address it was given; numbered ones have no port to fall back on.
        if self.num_machines > 1 and not _is_address(self.endpoint or "", needs_port=self.node_rank is not None):
            raise InputError(
                f"--rdzv-endpoint is {self.rdzv_endpoint}; it must be HOST:PORT of one of the machines, with a port "
                "from 1 to 65535, such as 10.0.0.1:29400 or [fe80::1]:29400."
            )
        if self.node_rank is not None and self.node_rank >= self.num_machines:
            raise InputError(f"--node-rank is {self.node_rank}, but there are {self.num_machines} machines, from 0 on.")

    @property
    def num_machines(self) -> int:
        """Machines that train together."""
        return self.nnodes or 1

    @property
    def endpoint(self) -> str | None:
        """Where the machines meet, as `host:port`."""
        if self.rdzv_endpoint is None or self.rdzv_endpoint.startswith("env://"):
            return None
        return self.rdzv_endpoint.removeprefix("tcp://").strip()

    @property
    def starts_processes(self) -> bool:
        """Whether processes are to be started; not in one that a launcher has started."""
        asked = (self.nproc_per_node or 1) > 1 or self.num_machines > 1 or self.multiprocessing_distributed
        return asked and "RANK" not in os.environ


def _is_address(endpoint: str, *, needs_port: bool) -> bool:
    """Return whether text is `host:port`, read as torch does: `host` alone has its default port."""
    if endpoint.endswith("]") or ":" not in endpoint:
        host, port = endpoint, None
    else:
        host, _, port = endpoint.rpartition(":")
    if port is None and needs_port:
        return False
    if port is not None and not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
        return False
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if ":" not in host:
        return re.fullmatch(r"[\w.-]+", host) is not None
    try:
        return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False


def launch(settings: TrainSettings, launch_settings: LaunchSettings) -> TrainResult | None:
    """Train in several processes; return the result of the main one, None on a machine that does not run it.

    Raises:
        InputError: as `run_training`; or there is no GPU for `--multiprocessing-distributed`.
        ApsError: as `run_training`; or processes died more often than they were to be started again; or the machines
            could not meet.
    """
    from torch.distributed import DistNetworkError, DistStoreError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from aps_deploy.training.process import check_devices

    num_local = _processes_here(launch_settings)
    # Here, because a process that ends before it met the others would leave them waiting.
    check_devices(settings.device, settings.dist_backend, num_local)
    # Left alone, every process would start a thread per core.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_local)))
    config = LaunchConfig(
        min_nodes=launch_settings.num_machines,
        max_nodes=launch_settings.num_machines,
        nproc_per_node=num_local,
        run_id=launch_settings.rdzv_id,
        **_meeting(launch_settings),
        max_restarts=launch_settings.max_restarts,
        monitor_interval=0.1,
        start_method="spawn",
    )
    try:
        with _own_signal_handlers():
            outcomes = elastic_launch(config, run_worker)(settings)
    except ChildFailedError as error:
        rank_of, failure = error.get_first_failure()
        raise ApsError(
            f"process {rank_of} of the run died (exit code {failure.exitcode}) after {launch_settings.max_restarts} "
            f"restarts; continue with: aps-deploy train --resume --out-dir {settings.out_dir}"
        ) from None
    except SignalException as error:
        return _interrupted(settings, error.sigval.name)
    except (RendezvousError, DistNetworkError, DistStoreError) as error:
        # The first kind is raised where the machines agree on their numbers, the others where they were given.
        reason = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__).rstrip(".")
        raise ApsError(
            f"the machines cannot meet at {config.rdzv_endpoint} ({reason}); give --rdzv-endpoint HOST:PORT of one of "
            f"them, which all {launch_settings.num_machines} can reach, and start the same command on each."
        ) from None
    outcome: TrainResult | _Failure | None = outcomes.get(0)
    for found in outcomes.values():
        # The main process may only know that another one failed.
        if isinstance(found, _Failure) and (not isinstance(outcome, _Failure) or outcome.is_of_a_peer):
            outcome = found
    if isinstance(outcome, _Failure):
        raise (InputError if outcome.exit_code == InputError.exit_code else ApsError)(outcome.message)
    return outcome


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Put the signal handlers back at the end: the engine leaves its own behind."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield  # where Python, or the engine, sets no handlers
        return
    previous = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclasses.dataclass(frozen=True)
class _Failure:
    """An error that starting again would not mend."""

    message: str
    exit_code: int
    is_of_a_peer: bool


def run_worker(settings: TrainSettings) -> TrainResult | _Failure:
    """Train in one of the processes; the main function of each."""
    from aps_deploy.training.loop import run_training
    from aps_deploy.training.process import PeerError

    try:
        return run_training(settings)
    except ApsError as error:
        return _Failure(str(error), error.exit_code, isinstance(error, PeerError))


def _meeting(launch_settings: LaunchSettings) -> dict[str, Any]:
    """Return how the machines find each other, as arguments of `LaunchConfig`."""
    rank = launch_settings.node_rank
    if launch_settings.num_machines == 1:
        # Nobody else to meet: any free port will do, and an address given with one machine may be another's (the
        # authors' default is). A static meeting could not come about at port 0.
        return {"rdzv_backend": "c10d", "rdzv_endpoint": _LOCAL}
    if rank is None:
        return {"rdzv_backend": "c10d", "rdzv_endpoint": launch_settings.endpoint}
    configs = {"rank": rank, "timeout": 900}
    return {"rdzv_backend": "static", "rdzv_endpoint": launch_settings.endpoint, "rdzv_configs": configs}


def _processes_here(launch_settings: LaunchSettings) -> int:
    if not launch_settings.multiprocessing_distributed:
        return launch_settings.nproc_per_node or 1
    import torch

    count = torch.cuda.device_count()
    if count == 0:
        raise InputError(
            "--multiprocessing-distributed finds no CUDA device; give --nproc-per-node N for CPU processes."
        )
    return count


def _interrupted(settings: TrainSettings, signal_name: str) -> TrainResult:
    """Return the result of a run whose processes saved and ended because this one was told to stop."""
    from aps_deploy.models import network_spec
    from aps_deploy.training.build import architecture_name
    from aps_deploy.training.loop import TrainResult
    from aps_deploy.training.metrics import METRICS_FILE, last_metrics
    from aps_deploy.training.recipes import recipe_for
    from aps_deploy.training.settings import continued
    from aps_deploy.training.state import STATE_FILE, load_state

    out_dir = settings.out_dir
    assert out_dir is not None
    if not (out_dir / STATE_FILE).is_file():
        raise ApsError(f"stopped by {signal_name} before anything was saved; start the run again.")
    stored = load_state(out_dir / STATE_FILE)
    settings = continued(dataclasses.replace(settings, resume=True, weights=None), stored["settings"])
    recipe = recipe_for(settings, network_spec(architecture_name(settings)).family)
    position, last = stored["position"], last_metrics(out_dir / METRICS_FILE)
    return TrainResult(out_dir, position["epoch"], recipe.epochs, last, position["best_epoch"], None, signal_name)
