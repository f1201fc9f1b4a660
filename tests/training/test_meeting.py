"""What an earlier start of a run left in the engine's store is nobody's answer."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from aps_deploy.training.meeting import engine_store, store_of_this_start

PATIENCE = timedelta(seconds=30)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> dist.TCPStore:
    """The engine's store, and the environment that names it."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    return store


def join(rank: int, world_size: int, delay: float = 0.0, timeout: timedelta = PATIENCE) -> dist.Store:
    """Join as a process of its own would, after `delay` seconds."""
    time.sleep(delay)
    store = engine_store(PATIENCE)
    assert store is not None
    return store_of_this_start(store, rank, world_size, timeout)


def start(delays: list[float]) -> list[dist.Store]:
    """Let one process per delay join."""
    with ThreadPoolExecutor(len(delays)) as threads:
        joining = [threads.submit(join, rank, len(delays), delay) for rank, delay in enumerate(delays)]
        return [each.result(60) for each in joining]


@pytest.mark.parametrize("delays", [[0.0, 0.0, 0.0], [0.6, 0.0, 0.3], [0.0, 0.3, 0.6]])
def test_a_start_finds_nothing_of_the_ones_before(server: dist.TCPStore, delays: list[float]) -> None:
    """Whoever is first: the main process or another."""
    for number in range(3):
        stores = start(delays)
        for rank, store in enumerate(stores):
            assert not any(store.check([f"address/{other}"]) for other in range(rank, len(stores)))
            store.set(f"address/{rank}", f"{number}.{rank}")
        for store in stores:
            found = [store.get(f"address/{rank}").decode() for rank in range(len(stores))]
            assert found == [f"{number}.{rank}" for rank in range(len(stores))]


def test_a_process_that_died_while_it_asked(server: dist.TCPStore) -> None:
    """Its word is answered, and nobody takes that for the process."""
    with pytest.raises(dist.DistStoreError):
        join(1, 2, timeout=timedelta(seconds=0.2))
    main, other = start([0.0, 0.5])
    main.set("from", "main")
    assert other.get("from") == b"main"


def test_a_process_that_never_comes(server: dist.TCPStore) -> None:
    with pytest.raises(dist.DistStoreError, match="ranks 2 of the run did not start in"):
        present = threading.Thread(target=join, args=(1, 3))
        present.start()
        try:
            join(0, 3, timeout=timedelta(seconds=1))
        finally:
            present.join()


def test_without_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert engine_store(PATIENCE) is None
