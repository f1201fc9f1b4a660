"""Several processes on this machine's CPU: they train as one would, and end together, however they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.elastic.rendezvous import RendezvousConnectionError, RendezvousTimeoutError

from aps_deploy.errors import ApsError, InputError
from aps_deploy.training.build import architecture_name, build_model
from aps_deploy.training.launch import LaunchSettings, launch
from aps_deploy.training.loop import run_training
from aps_deploy.training.metrics import TIMED
from aps_deploy.training.settings import TrainSettings
from aps_deploy.training.state import load_state, seed_everything
from tests.training.held import ROOT, start, wait_until_held

Settings = Callable[..., TrainSettings]
# Without selections, and with small steps: batches this small make a network chaotic, and rounding would grow tenfold
# with every larger step, in one process as well (channels-last against not).
CALM = {"arch": "resnet20", "learning_rate": 1e-4, "batch_size": 10}
# Odd batches, a short last one, and all that is drawn at random and divided among the processes.
AUGMENTED = {"batch_size": 21, "flip": True, "crop_padding": 4, "circular_data_aug": True}


def records(out_dir: Path) -> list[dict[str, Any]]:
    """Return the metrics of a run without what depends on the clock."""
    lines = (out_dir / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMED} for line in lines]


def initial_weights(settings: TrainSettings) -> dict[str, torch.Tensor]:
    """Return the weights of the convolutions and of the head with which a run of three classes starts."""
    seed_everything(settings.seed)
    state = build_model(settings, architecture_name(settings), num_classes=3).state_dict()
    return {name: value for name, value in state.items() if name.endswith("weight") and value.ndim > 1}


Curve = list[dict[str, Any]]


def train_twice(make: Settings, folder: Path, **options: Any) -> tuple[Curve, Curve]:
    """Return the metrics of a run in one process, and of the same run in two, in the folders `alone` and `together`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # as the one process has: more threads round otherwise
        run_training(make(out_dir=folder / "alone", **options))
        handler = signal.getsignal(signal.SIGTERM)
        together = make(out_dir=folder / "together", sync_batch_norm=True, **options)
        result = launch(together, LaunchSettings(nproc_per_node=2))
    assert signal.getsignal(signal.SIGTERM) is handler
    assert result is not None and result.is_main and result.test is not None
    assert result.test.num_images == 12
    expected, found = records(folder / "alone"), records(folder / "together")
    assert len(expected) == len(found) == options["epochs"]
    return expected, found


@pytest.mark.parametrize(
    "options",
    [
        {"arch": "resnet20_aps1", "epochs": 3, "seed": 0},
        pytest.param({"arch": "resnet20_aps3", "epochs": 4, "seed": 1}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_have_the_loss_curve_of_one(options: dict[str, Any], settings: Settings, tmp_path: Path) -> None:
    """The same images, cropped, mirrored and shifted alike, with statistics over both processes.

    Sums are made in another order, and such roundings grow with every step: measured were 1e-8, 4e-8 and 1e-5 of the
    training loss in three epochs of `aps1`, and 2e-7, 8e-6, 3e-6, 2e-5 (and 2e-4 in a fifth) in those of `aps3`. It is
    no other in one process: the same `aps1` run in channels-last is 3e-6, 2e-5 and 7e-5 away. The validation loss is
    farther (up to 8e-4; channels-last 2e-3), because the running statistics, which lag behind, make large logits.
    """
    expected, found = train_twice(
        settings, tmp_path, **options, **AUGMENTED, learning_rate=1e-3, schedule="constant", validate_consistency=True
    )
    for one, other in zip(expected, found, strict=True):
        assert other.pop("validation_loss") == pytest.approx(one.pop("validation_loss"), rel=5e-3)
        assert one.pop("validation_images") == other.pop("validation_images") == "test"
        assert one["validation_consistency"] == 1
        assert other == pytest.approx(one, rel=1e-4)
    # What is compared must move: a network that does not learn would agree with anything.
    losses = [record["train_loss"] for record in expected]
    assert all(after < 0.98 * before for before, after in pairwise(losses)), losses


@pytest.mark.slow
def test_two_processes_change_the_weights_as_one(settings: Settings, tmp_path: Path) -> None:
    """48 images in batches of 10, so that the last batch is a short one. What is compared is what training changed."""
    once = {**CALM, "seed": 1, "epochs": 1, "validate_consistency": True, "flip": False, "crop_padding": 0}
    for one, other in zip(*train_twice(settings, tmp_path, **once), strict=True):
        assert one.pop("validation_images") == other.pop("validation_images") == "test"
        assert other == pytest.approx(one, rel=1e-4)
    # A rounding that crosses the kink of a ReLU is felt in every weight before it: in four runs (three seeds on one
    # processor, one on another) the largest distances were 0.01 to 0.4 % of the change. The bar is there to find images
    # that are lost or counted twice.
    start = initial_weights(settings(**once))
    trained, found = (load_file(tmp_path / name / "last.safetensors") for name in ("alone", "together"))
    for name, weight in start.items():
        change = (trained[name] - weight).norm()
        assert change > 0
        assert (found[name] - trained[name]).norm() < 1e-2 * change, name


@pytest.mark.parametrize(
    "more", [{}, pytest.param({"nnodes": 1, "node_rank": 0, "rdzv_endpoint": "env://"}, marks=pytest.mark.slow)]
)
def test_an_error_is_said_once_and_not_tried_again(
    more: dict[str, Any], settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The main process alone finds the folder in use; the other must not wait for it."""
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(InputError, match="exists and is not empty"):
        launch(settings(out_dir=tmp_path / "used", **CALM), LaunchSettings(nproc_per_node=2, **more))
    assert "Traceback" not in capfd.readouterr().err


def test_devices_are_checked_before_any_process_starts(settings: Settings, tmp_path: Path) -> None:
    chosen = settings(out_dir=tmp_path / "run", dist_backend="nccl", **CALM)
    with pytest.raises(InputError, match="nccl needs CUDA"):
        launch(chosen, LaunchSettings(nproc_per_node=2))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_all(settings: Settings, tmp_path: Path) -> None:
    diverging = settings(out_dir=tmp_path / "run", **{**CALM, "learning_rate": 1e30})
    with pytest.raises(ApsError, match="the loss is"):
        launch(diverging, LaunchSettings(nproc_per_node=2))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nproc_per_node": 0}, "--nproc-per-node is 0"),
        ({"nnodes": 0}, "--nnodes is 0"),
        ({"nnodes": 2}, "--rdzv-endpoint"),
        ({"nnodes": 2, "rdzv_endpoint": "env://"}, "--rdzv-endpoint"),
        ({"nnodes": 2, "rdzv_endpoint": "host:notaport"}, "--rdzv-endpoint is host:notaport; it must be HOST:PORT"),
        ({"nnodes": 2, "rdzv_endpoint": "host:notaport", "node_rank": 1}, "--rdzv-endpoint is host:notaport"),
        ({"nnodes": 2, "rdzv_endpoint": "127.0.0.1:99999"}, "a port from 1 to 65535"),
        ({"nnodes": 2, "rdzv_endpoint": "host:0"}, "a port from 1 to 65535"),
        ({"nnodes": 2, "rdzv_endpoint": "host:"}, "it must be HOST:PORT"),
        ({"nnodes": 2, "rdzv_endpoint": "http://h:1"}, "--rdzv-endpoint is http://h:1; it must be HOST:PORT"),
        ({"nnodes": 2, "rdzv_endpoint": "tcp://:1"}, "it must be HOST:PORT"),
        ({"nnodes": 2, "rdzv_endpoint": "[fe80:1"}, "it must be HOST:PORT"),
        ({"nnodes": 2, "rdzv_endpoint": "host", "node_rank": 0}, "it must be HOST:PORT"),
        ({"nnodes": 2, "rdzv_endpoint": "a:1", "node_rank": 2}, "there are 2 machines"),
        ({"nproc_per_node": 2, "multiprocessing_distributed": True}, "exclude each other"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        LaunchSettings(**changes)


def test_the_authors_way_to_say_it() -> None:
    chosen = LaunchSettings(nnodes=-1, node_rank=-1, rdzv_endpoint="tcp://host:23456")
    assert (chosen.num_machines, chosen.node_rank, chosen.endpoint) == (1, None, "host:23456")
    assert not chosen.starts_processes
    assert LaunchSettings(multiprocessing_distributed=True).starts_processes


@pytest.mark.parametrize(
    ("given", "backend", "endpoint"),
    [
        ({"nproc_per_node": 2}, "c10d", "localhost:0"),
        ({"nproc_per_node": 2, "node_rank": 0}, "c10d", "localhost:0"),
        ({"nproc_per_node": 2, "nnodes": 1, "node_rank": 0, "rdzv_endpoint": "env://"}, "c10d", "localhost:0"),
        ({"nproc_per_node": 2, "rdzv_endpoint": "tcp://224.66.41.62:23456"}, "c10d", "localhost:0"),
        ({"nnodes": 2, "rdzv_endpoint": "tcp://host:23456"}, "c10d", "host:23456"),
        ({"nnodes": 2, "node_rank": 1, "rdzv_endpoint": "tcp://host:23456"}, "static", "host:23456"),
        ({"nnodes": 2, "rdzv_endpoint": "10.0.0.1:65535"}, "c10d", "10.0.0.1:65535"),
        ({"nnodes": 2, "rdzv_endpoint": "[fe80::1]:29400"}, "c10d", "[fe80::1]:29400"),
        ({"nnodes": 2, "node_rank": 1, "rdzv_endpoint": "tcp://[::1]:1"}, "static", "[::1]:1"),
        ({"nnodes": 2, "rdzv_endpoint": "a-host.example"}, "c10d", "a-host.example"),
    ],
)
def test_where_the_machines_meet(
    given: dict[str, Any], backend: str, endpoint: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One machine meets nobody, whatever address and number it was given."""
    seen: list[Any] = []

    def engine(config: Any, entrypoint: Any) -> Any:
        seen.append(config)
        raise InputError("seen")

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", engine)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(InputError, match="seen"):
        launch(settings(**CALM), LaunchSettings(**given))
    (config,) = seen
    assert (config.rdzv_backend, config.rdzv_endpoint) == (backend, endpoint)
    assert config.rdzv_configs.get("rank") == (1 if backend == "static" else None)


@pytest.mark.parametrize("more", [{}, {"node_rank": 1}])
@pytest.mark.parametrize(
    "kind", [RendezvousConnectionError, RendezvousTimeoutError, torch.distributed.DistNetworkError]
)
def test_machines_that_cannot_meet_are_one_sentence(
    kind: type[Exception], more: dict[str, Any], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def engine(config: Any, entrypoint: Any) -> Any:
        def run(*arguments: Any) -> Any:
            raise kind("See inner exception.") from TimeoutError("nobody answers\nframe #0")

        return run

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", engine)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(ApsError, match=r"cannot meet at host:1 \(nobody answers\); give --rdzv-endpoint"):
        launch(settings(**CALM), LaunchSettings(nnodes=2, rdzv_endpoint="host:1", **more))


def test_a_process_that_a_launcher_started_starts_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LaunchSettings(nproc_per_node=2).starts_processes
    monkeypatch.setenv("RANK", "0")
    assert not LaunchSettings(nproc_per_node=2).starts_processes


# Really killed: a command, its processes and their signals.
EPOCHS = 4


def command(data: Path, out_dir: Path, *more: str) -> list[str]:
    words = ["train", "--nproc-per-node", "2"]
    words += ["--out-dir", str(out_dir)] if "--resume" in more else options(data, out_dir)
    return [*words, *more]


def options(data: Path, out_dir: Path) -> list[str]:
    words = ["--arch", "resnet20_aps1", "--data", str(data), "--recipe", "fast", "--epochs", str(EPOCHS)]
    words += ["--batch-size", "4", "--lr", "0.01", "--precision", "float32", "--device", "cpu", "--no-progress"]
    return [*words, "--out-dir", str(out_dir)]


def workers(process: subprocess.Popen[str], sign: str = "spawn_main") -> list[int]:
    """Return the processes that train: the children whose command holds `sign`, spawned to run `run_worker`."""
    found = []
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if sign in Path(f"/proc/{child}/cmdline").read_text():
            found.append(int(child))
    return found


@pytest.fixture(scope="module")
def undisturbed(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start(command(data_folder, out_dir))
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    return records(out_dir)


@pytest.fixture
def out_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "run"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_process_killed_in_an_epoch_is_started_again(
    undisturbed: list[dict[str, Any]], data_folder: Path, out_dir: Path
) -> None:
    held = out_dir.with_name("held")
    process = start(command(data_folder, out_dir, "--checkpoint-seconds", "0"), held)
    wait_until_held(process, held)
    os.kill(workers(process)[-1], signal.SIGKILL)
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert f"{EPOCHS} of {EPOCHS} epochs done" in output
    assert records(out_dir) == undisturbed


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.parametrize("number", [0, 1])
def test_a_process_killed_under_torchrun_is_started_again(
    number: int, undisturbed: list[dict[str, Any]], data_folder: Path, out_dir: Path
) -> None:
    """`torchrun` starts the same command again, which must find out by itself that it is a continuation."""
    held = out_dir.with_name("held")
    inside = [*TORCHRUN, "--max-restarts", "1", "--no-python"]
    process = start(command(data_folder, out_dir, "--checkpoint-seconds", "0"), held, inside)
    wait_until_held(process, held)
    os.kill(workers(process, "tests.training.held")[number], signal.SIGKILL)
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert f"{EPOCHS} of {EPOCHS} epochs done" in output
    assert records(out_dir) == undisturbed


@pytest.mark.slow
def test_sigterm_saves_everything(undisturbed: list[dict[str, Any]], data_folder: Path, out_dir: Path) -> None:
    held = out_dir.with_name("held")
    process = start(command(data_folder, out_dir, "--checkpoint-seconds", "0"), held)
    wait_until_held(process, held)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert "stopped by SIGTERM; continue with: aps-deploy train --resume" in output
    assert len(records(out_dir)) < EPOCHS
    process = start(command(data_folder, out_dir, "--resume"))
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert records(out_dir) == undisturbed


@pytest.mark.slow
def test_sigterm_under_torchrun_saves_everything(
    undisturbed: list[dict[str, Any]], data_folder: Path, out_dir: Path
) -> None:
    """The module itself, as README has it. That the launcher exits with 1 is its own way to say that it was stopped."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def started(words: list[str]) -> subprocess.Popen[str]:
        line = [*TORCHRUN, "-m", "aps_deploy.training", *words]
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    process = started([*options(data_folder, out_dir), "--checkpoint-seconds", "0"])
    deadline = time.monotonic() + 500
    # Its first line is written with the state after the first epoch, which is saved again after every step.
    while not (out_dir / "metrics.jsonl").exists() or not load_state(out_dir / "last.pt")["position"]["step"]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the second epoch was not reached"
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 1 and "SignalException" in errors
    assert "stopped by SIGTERM; continue with: aps-deploy train --resume" in output
    assert 1 <= len(records(out_dir)) < EPOCHS
    process = started(["--resume", "--out-dir", str(out_dir)])
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert "epoch 1:" not in errors, "it was trained anew"
    assert records(out_dir) == undisturbed
