"""Whether a run goes on from what is saved is decided once, for all its processes, and they share its folder."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from aps_deploy.errors import ApsError, InputError
from aps_deploy.training import agreement, loop
from aps_deploy.training.agreement import check_same_position, check_shared, resumed_after_restart
from aps_deploy.training.loop import run_training
from aps_deploy.training.process import Process, joined_processes
from aps_deploy.training.settings import TrainSettings
from aps_deploy.training.state import Position
from tests.training.conftest import Settings


@pytest.mark.parametrize(("restarts", "is_saved"), [(None, True), ("0", True), ("1", False), ("1", True)])
def test_a_restart_goes_on_from_what_is_saved(
    restarts: str | None, is_saved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if restarts is not None:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    if is_saved:
        (tmp_path / "last.pt").touch()
    given = TrainSettings(arch="resnet20", data=tmp_path, out_dir=tmp_path, weights=Path("start.safetensors"))
    found = resumed_after_restart(given, Process())
    if restarts == "1" and is_saved:
        assert found.resume and found.weights is None and found.arch == "resnet20"
    else:
        assert found == given


def test_a_run_that_torchrun_started_again_is_continued(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torchrun` runs the command itself in every process, and the same one after a death."""
    chosen = settings(arch="resnet20", epochs=1, max_train_images=16)
    run_training(chosen)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert run_training(chosen).epochs == 1


def in_two_processes(action: Callable[[int], list[str]], *, restarts: tuple[int, int] = (0, 0)) -> list[list[str]]:
    """Return what an action says in the main process and in another one, each as on a machine of its own.

    Args:
        action: takes the process's rank; it ends before anything is computed by several threads.
        restarts: deaths that the launcher of each has counted.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    context = multiprocessing.get_context("fork")  # importing everything again would take most of the time

    def act(rank: int, sender: Connection) -> None:
        os.environ.update(meeting, RANK=str(rank), TORCHELASTIC_RESTART_COUNT=str(restarts[rank]))
        sender.send(action(rank))

    started = []
    for rank in range(2):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=act, args=(rank, sender))
        process.start()
        sender.close()
        started.append((process, receiver))
    try:
        return [receiver.recv() for _, receiver in started]
    finally:
        for process, _ in started:
            process.kill()


def said_by(action: Callable[[], object]) -> str:
    """Return the error of an action, or what it returns."""
    try:
        return str(action())
    except ApsError as error:
        return f"{type(error).__name__}: {error}"


def agreements(out_dir: Path, epoch: int) -> list[str]:
    """Return whether this process resumes, and what the checks of its folder and of its position say."""
    given = TrainSettings(arch="resnet20", data=out_dir, out_dir=out_dir)
    with joined_processes("cpu", None) as process:
        return [
            str(resumed_after_restart(given, process).resume),
            said_by(lambda: check_shared(out_dir, process)),
            said_by(lambda: check_same_position(Position(epoch=epoch), out_dir, process)),
        ]


REFUSAL = re.compile(
    r"InputError: --out-dir \S+ on \S+ is not the folder of the main process \(.*\); several machines .*"
)
ANOTHER_SAYS = "PeerError: another process of this run failed; its message says why."
on_forks = pytest.mark.skipif(sys.platform == "win32", reason="forks processes")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_PATIENCE_SECONDS", 0.2)


@on_forks
@pytest.mark.parametrize("restarts", [(0, 0), (0, 1)])
def test_two_processes_agree(restarts: tuple[int, int], tmp_path: Path) -> None:
    """A restart is known on the machine of the dead process alone."""
    (tmp_path / "last.pt").touch()
    said = in_two_processes(lambda rank: agreements(tmp_path, 1), restarts=restarts)
    assert said == [[str(restarts == (0, 1)), "None", "None"]] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"], "no token is left"


@on_forks
@pytest.mark.usefixtures("impatient")
def test_two_processes_find_that_they_share_nothing(tmp_path: Path) -> None:
    """What the other one has saved there does not make it resume."""
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    (folders[1] / "last.pt").touch()
    main, other = in_two_processes(lambda rank: agreements(folders[rank], rank), restarts=(1, 1))
    assert main == ["False", ANOTHER_SAYS, ANOTHER_SAYS]
    assert other[0] == "False" and all(REFUSAL.fullmatch(line) for line in other[1:])
    assert not list(folders[0].iterdir())


@on_forks
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("resumes", [False, True])
def test_a_run_whose_processes_share_no_folder_is_refused(resumes: bool, settings: Settings, tmp_path: Path) -> None:
    """Also where each of them finds a state: the other machine's may be an older one."""
    folders = [tmp_path / "one", tmp_path / "other"]
    if resumes:
        run_training(settings(arch="resnet20", epochs=1, max_train_images=16, out_dir=folders[0]))
        shutil.copytree(folders[0], folders[1])
    before = sorted(tmp_path.glob("*/*"))

    def train(rank: int) -> list[str]:
        if resumes:
            chosen = TrainSettings(out_dir=folders[rank], resume=True, device="cpu")
        else:
            chosen = settings(arch="resnet20", out_dir=folders[rank])
        return [said_by(lambda: run_training(chosen))]

    (main,), (other,) = in_two_processes(train)
    assert main == ANOTHER_SAYS and REFUSAL.fullmatch(other)
    assert sorted(tmp_path.glob("*/*")) == before, "nothing was written"


@on_forks
def test_a_best_checkpoint_that_one_process_cannot_read_stops_both(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main process would wait for the other in the test."""
    run_training(settings(arch="resnet20", epochs=1, max_train_images=16))

    def failing(path: Path) -> None:
        raise InputError(f"{path.name} is damaged")

    def test_again(rank: int) -> list[str]:
        if rank == 1:
            monkeypatch.setattr(loop, "load_checkpoint", failing)
        return [said_by(lambda: run_training(TrainSettings(out_dir=tmp_path / "run", resume=True, device="cpu")))]

    assert in_two_processes(test_again) == [[ANOTHER_SAYS], ["InputError: best.safetensors is damaged"]]
