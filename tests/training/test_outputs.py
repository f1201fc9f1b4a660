"""Who owns the folder of a run, however its processes end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from aps_deploy.errors import InputError
from aps_deploy.files import atomic_path
from aps_deploy.training.loop import run_training
from aps_deploy.training.outputs import check_out_dir, owned_out_dir, token_file
from aps_deploy.training.settings import TrainSettings
from tests.training.conftest import Settings


def own_beside_a_child(folder: Path, ready: int) -> None:
    """Own a folder, with a forked child, until both are killed; the child writes its number to `ready`."""
    with owned_out_dir(folder, is_new=True):
        if os.fork() == 0:
            os.write(ready, str(os.getpid()).encode())
        signal.pause()


@pytest.mark.skipif(sys.platform == "win32", reason="forks processes")
def test_a_killed_owner_leaves_the_folder_free_at_once(tmp_path: Path) -> None:
    """As with loader processes, which live on for seconds."""
    told, ready = os.pipe()
    owner = os.fork()
    if owner == 0:
        try:
            own_beside_a_child(tmp_path / "run", ready)
        finally:
            os._exit(1)
    child = int(os.read(told, 20))
    try:
        with pytest.raises(InputError, match="another process"), owned_out_dir(tmp_path / "run", is_new=False):
            pass
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        os.kill(child, 0)  # it lives
        with owned_out_dir(tmp_path / "run", is_new=False):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(told)
        os.close(ready)


@pytest.mark.skipif(sys.platform == "win32", reason="forks processes")
def test_a_child_that_ends_takes_the_lock_from_nobody(tmp_path: Path) -> None:
    with owned_out_dir(tmp_path / "run", is_new=True):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(InputError, match="another process"), owned_out_dir(tmp_path / "run", is_new=False):
            pass


def write_and_be_killed(path: Path) -> None:
    """Leave what a process leaves that was killed while it wrote a file."""
    writer = os.fork()
    if writer == 0:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half of it")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(writer, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="forks processes")
@pytest.mark.parametrize("name", ["last.pt", "best.safetensors", "settings.json", "metrics.jsonl", "curves.png"])
def test_a_kill_in_the_first_save_leaves_a_folder_to_start_in(name: str, tmp_path: Path) -> None:
    write_and_be_killed(tmp_path / name)
    (left,) = tmp_path.iterdir()
    check_out_dir(tmp_path)
    assert left.is_file(), "nothing is deleted before the folder is owned"
    with owned_out_dir(tmp_path, is_new=True):
        assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="forks processes")
def test_leftovers_are_deleted_by_the_owner_alone(tmp_path: Path) -> None:
    with owned_out_dir(tmp_path, is_new=True):
        (tmp_path / "last.pt").touch()
        write_and_be_killed(tmp_path / "last.pt")
        with pytest.raises(InputError, match="another process"), owned_out_dir(tmp_path, is_new=False):
            pass
        assert len(list(tmp_path.iterdir())) == 2
    with owned_out_dir(tmp_path, is_new=False):
        assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_the_token_of_a_killed_run_is_deleted(tmp_path: Path) -> None:
    (tmp_path / token_file(7)).touch()
    check_out_dir(tmp_path)
    with owned_out_dir(tmp_path, is_new=True):
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        ".shared-notes",
        ".last-short.pt",
        ".last-abcd1234.onnx",
        "last-abcd1234.pt",
        ".notes-abcd1234.json",
        ".last-abcd1234.pt~",
    ],
)
def test_what_training_did_not_write_is_kept(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="exists and is not empty"):
        check_out_dir(tmp_path)
    with owned_out_dir(tmp_path, is_new=False):
        assert (tmp_path / name).read_text() == "mine"


def test_a_run_killed_between_its_first_files_is_continued(settings: Settings, tmp_path: Path) -> None:
    chosen = settings(arch="resnet20", epochs=1, max_train_images=16)
    run_training(chosen)
    written = (tmp_path / "run" / "settings.json").read_text()
    (tmp_path / "run" / "settings.json").unlink()
    run_training(TrainSettings(out_dir=tmp_path / "run", resume=True))
    again = (tmp_path / "run" / "settings.json").read_text()
    assert again.replace('"resume": true', '"resume": false') == written
