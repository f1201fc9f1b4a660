"""Command lines of the authors' two scripts are taken as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from typer.testing import CliRunner

from aps_deploy.cli import app
from aps_deploy.training.authors_flags import as_ours
from aps_deploy.training.launch import LaunchSettings
from aps_deploy.training.settings import TrainSettings

# Every flag of their parsers, with a value it takes; commit 9c319a2 of their repository.
CIFAR = {
    "--results_root_path": "./results/", "--model_folder": "first", "--device_id": "0", "--seed_num": "3",
    "--cudnn_deterministic": None, "--dataset": "cifar10", "--dataset_path": "images", "--batch_size": "128",
    "--base_center_crop": "32", "--data_augmentation_flag": None, "--train_split": "0.9", "--pin_memory_flag": None,
    "--num_workers": "4", "--max_shift": "3", "--validate_consistency": None, "--arch": "resnet18_aps",
    "--conv_pad_type": "circular", "--filter_size": "3", "--lr": "0.1", "--momentum": "0.9", "--weight_decay": "5e-4",
    "--step_size_lr": "100", "--scheduler_type": "StepLR", "--gamma": "0.1", "--scheduler_flag": "True",
    "--num_epochs": "250", "--start_epoch": "0", "--apspool_criterion": "l2",
}  # fmt: skip
# Those that say something else than training from the start by StepLR.
CIFAR_OTHERS = {
    "--resume": None, "--evaluate_only": None, "--evaluate_on_flips": None, "--evaluate_on_erase": None,
    "--random_erase_patch": "5", "--scheduler_milestones": "100,150",
}  # fmt: skip
IMAGENET = {
    "--data": "images", "-a": "resnet18_aps3", "--apspool_criterion": "l_infty", "--pool_only": None, "-j": "4",
    "-ep": "90", "--start-epoch": "0", "-b": "256", "--lr": "0.1", "--lr_step": "30", "--momentum": "0.9",
    "--wd": "1e-4", "-p": "100", "--world-size": "-1", "--rank": "-1",
    "--dist-url": "tcp://224.66.41.62:23456", "--dist-backend": "gloo", "--seed": "1", "--circular_data_aug": None,
    "--out-dir": "out", "--epochs-shift": "1", "-ba": "2", "--embed": None,
    "--wandb": None, "--multiprocessing-distributed": None,
}  # fmt: skip
IMAGENET_OTHERS = {
    "--cos_lr": None, "--pretrained": None, "--resume": "run", "-e": None, "--gpu": "0", "--val-debug": None,
    "--weights": "weights.pth", "--workers": "4", "--epochs": "90", "--batch-size": "256", "--learning-rate": "0.1",
    "--weight-decay": "1e-4", "--print-freq": "10", "--evaluate": None, "--batch-accum": "2", "--arch": "resnet18_aps3",
    "--evaluate-save": None, "--save_weights": "weights.pth",
}  # fmt: skip


def words(flags: dict[str, str | None]) -> list[str]:
    return [word for flag, value in flags.items() for word in (flag, value) if word is not None]


Given = tuple[TrainSettings, LaunchSettings]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], Given]:
    """Return the settings that a command line makes; nothing is trained."""

    def parse(arguments: list[str]) -> Given:
        seen: dict[str, Any] = {}

        def run(settings: TrainSettings, launching: LaunchSettings | None = None, **more: Any) -> Any:
            seen.update(settings=settings, launching=launching, **more)
            raise KeyboardInterrupt

        monkeypatch.setattr("aps_deploy.training.loop.run_training", run)
        monkeypatch.setattr("aps_deploy.training.command.launch", run)
        monkeypatch.setattr("aps_deploy.training.evaluate.evaluate_run", run)
        result = CliRunner().invoke(app, ["train", *arguments])
        assert result.exit_code == 130, result.output
        seen["stderr"] = result.stderr
        seen["warned"] = [line for line in result.stderr.splitlines() if "has no effect here" in line]
        parse.more = seen  # type: ignore[attr-defined]
        return seen["settings"], seen["launching"]

    return parse


def refusal(arguments: list[str]) -> str:
    result = CliRunner().invoke(app, ["train", *arguments])
    assert result.exit_code == 2, result.output
    return str(result.stderr)


def test_a_whole_command_for_cifar(given: Callable[[list[str]], Given]) -> None:
    settings, _ = given(words(CIFAR))
    assert settings == TrainSettings(
        arch="resnet18_aps", filter_size=3, out_dir=Path("results/first"), data=Path("images"), seed=3, batch_size=128,
        deterministic=True, image_size=32, circular_data_aug=True, train_split=0.9, workers=4, circular_shift=3,
        validate_consistency=True, padding="circular", learning_rate=0.1, momentum=0.9, weight_decay=5e-4,
        step_epochs=100, schedule="step", step_factor=0.1, epochs=250, criterion="l2",
    )  # fmt: skip
    (warned,) = given.more["warned"]  # type: ignore[attr-defined]
    assert "--pin-memory-flag has no effect here: images are pinned where there is a GPU" in warned


def test_a_whole_command_for_imagenet(given: Callable[[list[str]], Given]) -> None:
    settings, launching = given(words(IMAGENET))
    assert settings == TrainSettings(
        arch="resnet18_aps3", data=Path("images"), out_dir=Path("out"), criterion="l_infty", pool_only=True, workers=4,
        epochs=90, batch_size=512, learning_rate=0.2, step_epochs=30, momentum=0.9, weight_decay=5e-5, seed=1,
        circular_data_aug=True, accumulate=2, dist_backend="gloo",
    )  # fmt: skip
    assert launching.multiprocessing_distributed and launching.num_machines == 1 and launching.node_rank is None
    warned = given.more["warned"]  # type: ignore[attr-defined]
    silent = {"--print-freq", "--epochs-shift", "--embed", "--wandb"}
    assert {line[line.index("--") :].split()[0] for line in warned} == silent


def test_their_way_to_say_one_machine(given: Callable[[list[str]], Given]) -> None:
    flags = ["--multiprocessing-distributed", "--world-size", "1", "--rank", "0", "--dist-url", "env://"]
    _, launching = given(["--arch", "resnet18_aps3", "--data", "images", "--out-dir", "out", *flags])
    assert launching.starts_processes and launching.endpoint is None
    assert (launching.num_machines, launching.node_rank) == (1, 0)


@pytest.mark.parametrize("flag", [*CIFAR, *CIFAR_OTHERS, *IMAGENET, *IMAGENET_OTHERS])
def test_every_flag_is_known_to_the_parser(flag: str) -> None:
    value = {**CIFAR, **CIFAR_OTHERS, **IMAGENET, **IMAGENET_OTHERS}[flag]
    group: Any = typer.main.get_command(app)
    parent = group.make_context("aps-deploy", ["train"])
    group.commands["train"].make_context("train", [flag, *([] if value is None else [value])], parent=parent)


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["--scheduler_type", "MultiStepLR"], {"schedule": "milestones", "milestones": "100,150"}),
        (["--scheduler_type", "MultiStepLR", "--scheduler_milestones", "5,9"], {"milestones": "5,9"}),
        (["--scheduler_flag", "False"], {"schedule": "constant"}),
        (["--cos_lr"], {"schedule": "cosine"}),
        (["--lr_step", "30.0"], {"step_epochs": 30}),
        (["--lr-step", "40"], {"step_epochs": 40}),
        (["--device_id", "cpu"], {"device": "cpu"}),
        (["--device_id", "2"], {"device": "cuda:2"}),
        (["--device_id", "0"], {"device": None}),
        (["--pretrained", "net.pth"], {"weights": Path("net.pth")}),
        (["-ba", "1"], {"batch_size": None, "accumulate": None, "learning_rate": None}),
        (
            ["-b", "64", "-ba", "4", "--world-size", "2", "--dist-url", "tcp://first:23456"],
            {"batch_size": 512, "accumulate": 4, "learning_rate": 0.4, "weight_decay": 2.5e-5},
        ),
        (["-ba", "2", "--recipe", "fast"], {"batch_size": 256, "learning_rate": 0.3, "weight_decay": 2.5e-4}),
        (["--world-size", "2", "--dist-url", "tcp://first:23456"], {"batch_size": 512, "accumulate": None}),
    ],
)
def test_what_is_translated(arguments: list[str], changes: dict[str, Any], given: Callable[[list[str]], Given]) -> None:
    settings, _ = given(["-a", "resnet20_aps1", "--data", "x", "--model_folder", "y", *arguments])
    assert {name: getattr(settings, name) for name in changes} == changes


def test_steps_of_added_batches_are_those_of_the_translation() -> None:
    """Theirs adds the mean gradients of two batches; ours takes the mean of all at twice the rate, half the decay."""
    inputs = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = []
    for rate, decay, parts in ((0.1, 1e-2, 2), (0.2, 5e-3, 1)):
        layer = torch.nn.Linear(5, 1, bias=False, dtype=torch.float64)
        torch.nn.init.constant_(layer.weight, 0.5)
        sgd = torch.optim.SGD(layer.parameters(), rate, momentum=0.9, weight_decay=decay)
        for _ in range(4):
            sgd.zero_grad()
            for part in inputs.chunk(parts):
                layer(part).square().mean().backward()
            sgd.step()
        weights.append(layer.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-12, atol=0)


def test_machines_are_counted_once(given: Callable[[list[str]], Given]) -> None:
    several = ["--multiprocessing-distributed", "--dist-url", "tcp://first:23456", "--world-size", "2"]
    _, launching = given(["-a", "resnet18_aps3", "--data", "x", "--out-dir", "y", *several])
    assert launching.num_machines == 2
    (said,) = [line for line in given.more["stderr"].splitlines() if "in the authors' script" in line]  # type: ignore[attr-defined]
    assert "takes 1 x 256 images on each of its machines (2): trained as --batch-size 512" in said


def test_evaluating_the_best_of_a_folder(given: Callable[[list[str]], Given]) -> None:
    settings, _ = given(["--model_folder", "y", "--evaluate_only"])
    assert settings.evaluate and settings.resume and settings.out_dir == Path("y")
    given(["--model_folder", "y", "--evaluate_on_erase", "--random_erase_patch", "5"])
    assert given.more["settings"].evaluate  # type: ignore[attr-defined]
    assert (given.more["protocol"], given.more["erased_side"]) == ("cifar-erase", 5)  # type: ignore[attr-defined]
    given(["--model_folder", "y", "--evaluate_on_flips"])
    assert given.more["protocol"] == "cifar-flip"  # type: ignore[attr-defined]


def test_resuming_from_a_path(given: Callable[[list[str]], Given], tmp_path: Path) -> None:
    (tmp_path / "last.pt").touch()
    for path in (tmp_path, tmp_path / "last.pt"):
        settings, _ = given(["--resume", str(path)])
        assert settings.resume and settings.out_dir == tmp_path
    given(["--resume", str(tmp_path), "--start-epoch", "7"])
    (warned,) = given.more["warned"]  # type: ignore[attr-defined]
    assert "--start-epoch has no effect here: a run that is continued knows its epoch" in warned
    assert "names no run of aps-deploy" in refusal(["--resume", "foreign/checkpoint.pth.tar"])
    assert as_ours(["--resume", "--out-dir", "x"]) == ["--resume", "--out-dir", "x"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pretrained"], "--pretrained names no file"),
        (["--dataset", "imagenet"], "--dataset is imagenet"),
        (["--start_epoch", "7"], "--start-epoch is 7, but no run is continued; give --resume with --out-dir"),
        (["--lr_step", "30.5"], "--lr-step is 30.5; it must be a whole number of epochs"),
        (["--lr_step", "nan"], "--lr-step is nan; it must be a whole number of epochs"),
        (["--lr_step", "30", "--step-epochs", "20"], "--lr-step means 30, but step-epochs is 20"),
        (["--device_id", "first"], "--device-id is first"),
        (["--device_id", "1", "--device", "cpu"], "--device-id means cuda:1, but device is cpu"),
        (["--scheduler_flag", "no"], "--scheduler-flag is no"),
        (["--cos_lr", "--schedule", "step"], "--cos-lr means cosine, but schedule is step"),
        (["--save_weights", "x.pth"], "`aps-deploy import WEIGHTS -o FILE.safetensors` does that"),
        (["--evaluate-save"], "--evaluate-save writes validation images in the authors' script"),
        (["-ba", "0"], "--batch-accum is 0"),
        (["-ba", "2", "--accumulate", "4"], "--batch-accum means 2, but accumulate is 4"),
        (["--world-size", "0"], "--world-size is 0"),
        (["--world-size", "2", "--nnodes", "3"], "--world-size means 2, but nnodes is 3"),
        (["--val-debug"], "--val-debug trains on the validation images"),
        (["--random_erase_patch", "5"], "--random-erase-patch belongs to --evaluate-on-erase"),
        (["--evaluate_on_flips", "--evaluate_on_erase"], "exclude each other"),
        (["--results_root_path", "x"], "--results-root-path needs --model-folder"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str) -> None:
    assert message in refusal(arguments)
