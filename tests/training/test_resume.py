"""A run that was stopped and continued ends with the numbers of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aps_deploy.errors import InputError
from aps_deploy.training import step
from aps_deploy.training.interrupt import StopRequest
from aps_deploy.training.loop import run_training
from aps_deploy.training.metrics import TIMED, append_metrics, read_metrics
from aps_deploy.training.settings import TrainSettings
from aps_deploy.training.state import load_state
from tests.training.conftest import Settings


def final_state(folder: Path) -> dict[str, Any]:
    return load_state(folder / "last.pt")


def measured(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics without what a clock measured."""
    return [
        {key: value for key, value in record.items() if key not in TIMED}
        for record in read_metrics(folder / "metrics.jsonl")
    ]


def assert_same_run(first: Path, second: Path) -> None:
    states = [final_state(folder) for folder in (first, second)]
    for key, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][key]), key
    buffers = [state["optimizer"]["state"] for state in states]
    assert buffers[0].keys() == buffers[1].keys() != set()
    for key, entry in buffers[0].items():
        assert torch.equal(entry["momentum_buffer"], buffers[1][key]["momentum_buffer"])
    averages = [state["average"] or {} for state in states]
    assert averages[0].keys() == averages[1].keys()
    assert all(torch.equal(tensor, averages[1][key]) for key, tensor in averages[0].items())
    assert measured(first) == measured(second)
    best = [load_file(folder / "best.safetensors") for folder in (first, second)]
    assert all(torch.equal(tensor, best[1][key]) for key, tensor in best[0].items())


def send_after(steps: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a real signal when the given optimizer step begins."""
    count = 0
    original = step.Trainer.step

    def counting(self: step.Trainer, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == steps:
            os.kill(os.getpid(), number)
        return original(self, *arguments)

    monkeypatch.setattr(step.Trainer, "step", counting)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_mid_epoch_and_resumed(
    number: signal.Signals, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"precision": "auto", "holdout": 8, "validate_consistency": True, "circular_data_aug": True}
    options["ema_decay"] = 0.7 if number == signal.SIGTERM else None
    whole = run_training(settings(out_dir=tmp_path / "whole", **options))
    assert whole.interrupted_by is None and whole.epochs == 2
    with monkeypatch.context() as patch:
        # 40 training images in batches of 16: step 5 is the second of the second epoch.
        send_after(5, number, patch)
        stopped = run_training(settings(out_dir=tmp_path / "stopped", **options))
    assert stopped.interrupted_by == number.name and stopped.epochs == 1
    state = final_state(tmp_path / "stopped")
    assert (state["position"]["epoch"], state["position"]["step"]) == (1, 2)
    # A clean process would have other global random states.
    torch.manual_seed(99)
    resumed = run_training(TrainSettings(out_dir=tmp_path / "stopped", resume=True, progress=False))
    assert resumed.epochs == 2 and resumed.test == whole.test
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_interrupted_while_validating(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_training(settings(arch="resnet20", epochs=1, out_dir=tmp_path / "whole", batch_size=8))
    from aps_deploy.training import validate

    original = validate._measure
    with monkeypatch.context() as patch:

        def stopping(*arguments: Any) -> torch.Tensor:
            os.kill(os.getpid(), signal.SIGTERM)
            return original(*arguments)

        patch.setattr(validate, "_measure", stopping)
        stopped = run_training(settings(arch="resnet20", epochs=1, out_dir=tmp_path / "stopped", batch_size=8))
    assert stopped.epochs == 0 and final_state(tmp_path / "stopped")["position"]["step"] == 6
    run_training(TrainSettings(out_dir=tmp_path / "stopped", resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_killed_before_the_state_was_written(settings: Settings, tmp_path: Path) -> None:
    """A line whose epoch the state does not know is written again, not twice."""
    run_training(settings(arch="resnet20"))
    folder = tmp_path / "run"
    before = measured(folder)
    append_metrics(folder / "metrics.jsonl", {"epoch": 3, "train_loss": 1.0})
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"epoch": 4, "trai')
    result = run_training(TrainSettings(out_dir=folder, resume=True))
    assert measured(folder) == before and result.epochs == 2


def test_the_whole_process_group_is_terminated(settings: Settings, tmp_path: Path) -> None:
    """As Ctrl-C and batch systems do it: the loader's processes get the signal too."""
    options = {"arch": "resnet20", "image_size": 100, "workers": 2, "batch_size": 4, "max_train_images": 16}
    chosen = settings(epochs=500, **options)
    code = (
        "import sys, json; from aps_deploy.training.settings import TrainSettings;"
        "from aps_deploy.training.loop import run_training;"
        "result = run_training(TrainSettings(**json.loads(sys.argv[1])));"
        "print(result.interrupted_by)"
    )
    command = [sys.executable, "-c", code, json.dumps(chosen.to_dict())]
    checkout, environment = Path(__file__).parents[2], {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=checkout, env=environment, start_new_session=True
    )
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not metrics.is_file() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0 and output.strip() == "SIGTERM"
    position = final_state(tmp_path / "run")["position"]
    assert 1 <= position["epoch"] < 500
    assert not list((tmp_path / "run").glob(".*")), "temporary files are left behind"


def test_stop_request_counts_signals() -> None:
    # A shell starts background jobs with SIGINT ignored, and these tests may be one.
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop and stop.signal_name == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before


def test_resume_keeps_the_choices_and_refuses_others(settings: Settings, tmp_path: Path) -> None:
    run_training(settings(arch="resnet20", epochs=1))
    folder = tmp_path / "run"
    again = run_training(TrainSettings(out_dir=folder, resume=True, epochs=1, workers=0, arch="resnet20"))
    assert again.epochs == again.num_epochs == 1
    with pytest.raises(InputError, match=r"--batch-size is 8, but the run .* was started with 16"):
        run_training(TrainSettings(out_dir=folder, resume=True, batch_size=8))
    with pytest.raises(InputError, match=r"--label-smoothing is 0.3, .* its default"):
        run_training(TrainSettings(out_dir=folder, resume=True, label_smoothing=0.3))


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        run_training(TrainSettings(out_dir=tmp_path / "none", resume=True))


def test_a_state_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"format": 1, "model": Harmful()}, tmp_path / "last.pt")
    with pytest.raises(InputError, match="no training state that can be read safely"):
        run_training(TrainSettings(out_dir=tmp_path, resume=True))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"not a file of torch", b"error: file not found", b"PK\x03\x04 truncated"])
def test_a_damaged_state_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(InputError, match="no training state"):
        run_training(TrainSettings(out_dir=tmp_path, resume=True))
