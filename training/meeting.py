"""Where the processes of one start of a run tell each other their addresses.

The elastic engine keeps one store for all the starts of a run. A process that is started again would find there the
address of one that died, call it in vain and end: whichever of them is first loses this race, and a restart with it.
So the processes first agree on a name of their own for this start, and keep everything under it.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed import DistStoreError

_PAUSE_SECONDS = 0.02
"""Between two looks of the main process at who has asked."""


def engine_store(timeout: timedelta) -> Store | None:
    """Return the store that the elastic engine keeps for its processes, or None: they were started another way.

    Args:
        timeout: longest wait for anything in it.

    Raises:
        torch.distributed.DistNetworkError: it cannot be reached.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timeout)


def store_of_this_start(store: Store, rank: int, world_size: int, timeout: timedelta) -> Store:
    """Return a part of ``store`` that only the processes of this start write to; every one of them calls it.

    Nothing that an earlier start left behind is mistaken for an answer: each process asks with a word that nobody has
    used before, and the main process answers every word until all have said that they know the name.

    Args:
        store: what the processes of all starts share.
        rank: of this process.
        world_size: processes of one start.
        timeout: longest wait for the others.

    Raises:
        torch.distributed.DistStoreError: not all of them started in this time.
    """
    if rank:
        word = uuid.uuid4().hex
        store.set(f"start/asked/{rank}", word)
        store.wait([f"start/answer/{word}"], timeout)
        name = store.get(f"start/answer/{word}").decode()
        store.set(f"start/{name}/known/{rank}", "")
    else:
        name = uuid.uuid4().hex
        _answer(store, name, range(1, world_size), timeout)
    return PrefixStore(f"start/{name}", store)


def _answer(store: Store, name: str, others: range, timeout: timedelta) -> None:
    deadline = time.monotonic() + timeout.total_seconds()
    missing = set(others)
    while missing:
        for rank in sorted(missing):
            if store.check([f"start/{name}/known/{rank}"]):
                missing.remove(rank)
            elif store.check([f"start/asked/{rank}"]):
                store.set(f"start/answer/{store.get(f'start/asked/{rank}').decode()}", name)
        if missing and time.monotonic() > deadline:
            raise DistStoreError(f"ranks {', '.join(map(str, sorted(missing)))} of the run did not start in {timeout}")
        time.sleep(_PAUSE_SECONDS if missing else 0)
