"""Kernels kept between processes: where, when they are taken, and that nothing about them is ever an error."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aps_deploy.runtimes.tensorrt.gpu import Gpu
from aps_deploy.runtimes.tensorrt.runtime_cache import SUFFIX, SWITCH, cache_file, cache_folder
from aps_deploy.runtimes.tensorrt_session import TensorRtSession
from tests.export.engines.toys import toy
from tests.runtimes.tensorrt import fake_engine
from tests.runtimes.tensorrt.fake_rtx import GPU, STAMP, IRuntimeCache, fake_rtx, write_rtx_plan

IMAGES = np.zeros((3, 3, 8, 8), np.float32)
LARGER = np.zeros((7, 3, 8, 8), np.float32)


@pytest.fixture
def plan(tmp_path: Path, fake_cuda: None) -> Path:
    return write_rtx_plan(tmp_path / "toy.plan", toy())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "new" / "kernels"
    monkeypatch.setenv(SWITCH, str(folder))
    return folder


def _compiled(plan: Path, *batches: np.ndarray) -> int:
    """Run batches in a new session, as a new process would, and return how many shapes it compiled for."""
    with TensorRtSession(plan, toolkit=fake_rtx()) as session:
        for images in batches:
            assert len(session.run(images)["logits"]) == len(images)
        cache = session._loaded._cache
        assert cache is not None and isinstance(cache.cache, IRuntimeCache)
        return cache.cache.num_compiled


def test_what_was_compiled_is_there_in_the_next_process(plan: Path, folder: Path) -> None:
    assert _compiled(plan, IMAGES, IMAGES) == 1
    (kept,) = folder.iterdir()
    assert kept.suffix == SUFFIX and kept.read_bytes() == STAMP + b'["(3, 3, 8, 8)"]'
    assert folder.stat().st_mode & 0o777 == 0o700  # what is in it is run
    assert _compiled(plan, IMAGES) == 0
    assert _compiled(plan, IMAGES, LARGER) == 1  # and the new shape is added to the file
    assert _compiled(plan, IMAGES, LARGER) == 0
    assert [path.name for path in folder.iterdir()] == [kept.name]


def test_a_file_that_says_it_all_is_not_written_again(plan: Path, folder: Path) -> None:
    _compiled(plan, IMAGES)
    (kept,) = folder.iterdir()
    before = kept.stat()
    _compiled(plan, IMAGES, IMAGES, IMAGES)
    after = kept.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_contexts_share_one_cache(plan: Path, folder: Path) -> None:
    with TensorRtSession(plan, toolkit=fake_rtx()) as session:
        session.run(IMAGES)
        session.run(LARGER)
        caches = {id(context.config.get_runtime_cache()) for context in session._loaded.engine.contexts}
        assert len(session._loaded.engine.contexts) == 2 and len(caches) == 1


@pytest.mark.parametrize("content", [b"", b"no cache at all", b"kernels of 1.6.0.1: []"])
def test_a_cache_that_does_not_fit_is_told_once_and_replaced(
    content: bytes, plan: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _compiled(plan, IMAGES)
    (kept,) = folder.iterdir()
    kept.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert _compiled(plan, IMAGES) == 1
    (message,) = caplog.messages
    assert f"{kept} is damaged, or of another GPU, driver or version, and was not used; it is replaced." in message
    assert kept.read_bytes().startswith(STAMP)
    assert _compiled(plan, IMAGES) == 0


def _folder_instead(path: Path) -> None:
    path.mkdir(parents=True)


def _file_in_the_way(path: Path) -> None:
    path.parent.parent.mkdir(parents=True)
    path.parent.write_text("no folder")


@pytest.mark.parametrize("damage", [_folder_instead, _file_in_the_way])
def test_where_nothing_can_be_written_the_engine_runs_all_the_same(
    damage: Callable[[Path], None], plan: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from aps_deploy.files import sha256_of

    path = cache_file(sha256_of(plan), fake_rtx())
    assert path is not None
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert _compiled(plan, IMAGES, LARGER) == 2
    kept_not = [message for message in caplog.messages if "is not kept" in message]
    assert len(kept_not) == 1 and kept_not[0].endswith(f"; {SWITCH}=0 turns it off.")
    assert all("\n" not in message for message in caplog.messages)


def test_turned_off_nothing_is_read_or_written(plan: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    with TensorRtSession(plan, toolkit=fake_rtx()) as session:
        session.run(IMAGES)
        assert session._loaded.engine.contexts[0].config.get_runtime_cache() is None
    assert not folder.exists()


def test_a_file_is_of_one_plan_version_and_gpu(folder: Path) -> None:
    files = [
        cache_file("a" * 64, fake_rtx()),
        cache_file("b" * 64, fake_rtx()),
        cache_file("a" * 64, fake_rtx(version="1.8.0.1")),
        cache_file("a" * 64, fake_rtx(gpu=Gpu(GPU.name, GPU.compute_capability, "13.1"))),
        cache_file("a" * 64, fake_rtx(gpu=Gpu("another", GPU.compute_capability, GPU.driver))),
    ]
    assert len(set(files)) == len(files) and all(path is not None and path.parent == folder for path in files)
    assert cache_file("a" * 64, fake_rtx()) == files[0]
    # TensorRT compiles when it builds, so there is nothing to keep.
    assert cache_file("a" * 64, fake_engine.fake_toolkit()) is None


def test_the_folder_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "aps-deploy" / "tensorrt-rtx"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here" / "aps-deploy" / "tensorrt-rtx"
