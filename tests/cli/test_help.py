"""Help, version and the spelling of options."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

import aps_deploy
from aps_deploy.cli import app
from aps_deploy.training.authors_flags import AuthorsFlags
from aps_deploy.training.launch import LaunchSettings
from aps_deploy.training.settings import TrainSettings
from aps_deploy.verification import PROTOCOLS
from tests.cli.conftest import Invoke

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
VERBS = (
    *("train", "evaluate", "reproduce", "import", "convert", "models", "export", "predict", "verify", "serve"),
    *("package", "bench", "demo"),
)


def test_every_verb_is_there() -> None:
    assert tuple(COMMANDS) == VERBS


def test_no_arguments_shows_help(invoke: Invoke) -> None:
    assert "Usage: aps-deploy" in invoke().output


def test_version(invoke: Invoke) -> None:
    assert invoke("--version").output == f"aps-deploy {aps_deploy.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(invoke: Invoke, verb: str) -> None:
    result = invoke(verb, "--help")
    assert result.exit_code == 0
    for parameter in COMMANDS[verb].params:
        if parameter.name != "help" and not getattr(parameter, "hidden", False):
            assert parameter.opts[0] in result.output or parameter.metavar in result.output
            assert getattr(parameter, "help", "explained"), f"{verb} {parameter.name} has no help"


@pytest.mark.parametrize("verb", VERBS)
def test_summaries_fit_in_the_list_of_commands(invoke: Invoke, verb: str) -> None:
    (line,) = [line for line in invoke("--help").output.splitlines() if line.split()[:1] == [verb]]
    assert line.endswith("."), line
    assert not line.endswith("..."), line


def test_training_starts_as_a_module_without_the_other_commands() -> None:
    """As `torchrun -m aps_deploy.training ...` starts it."""
    code = (
        "import runpy, sys; sys.argv[1:] = ['--help']\n"
        "try: runpy.run_module('aps_deploy.training', run_name='__main__', alter_sys=True)\n"
        "finally: print('CLI' if 'aps_deploy.cli' in sys.modules else 'ALONE')"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert "--circular-data-aug" in result.stdout and result.stdout.endswith("ALONE\n")


def test_errors_of_the_module_are_the_commands_errors(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aps_deploy.training", "--arch", "resnet20", "--data", "x"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    assert result.returncode == 2
    assert (
        result.stderr == "Error: --out-dir is missing; name a new folder for the run, such as --out-dir runs/first.\n"
    )


def test_help_says_how_a_recipe_chooses_the_network(invoke: Invoke) -> None:
    assert "resnet18_aps3 becomes cifar_resnet18_aps3" in " ".join(invoke("train", "--help").output.split())


def test_train_offers_every_setting_under_its_own_name() -> None:
    offered = {parameter.name: parameter.opts for parameter in COMMANDS["train"].params}
    names = {field.name for settings in (TrainSettings, LaunchSettings) for field in dataclasses.fields(settings)}
    for name in names:
        assert f"--{name.replace('_', '-')}" in offered[name]
    hidden = {parameter.name for parameter in COMMANDS["train"].params if parameter.hidden}
    assert hidden == {field.name for field in dataclasses.fields(AuthorsFlags)}
    assert set(offered) - {"help"} == {*names, *hidden, "gpu"}


def test_every_protocol_can_be_chosen(invoke: Invoke) -> None:
    refusal = invoke("evaluate", "model.onnx", "--data", ".", "--protocol", "none").output
    assert re.findall("'([a-z-]+)'", refusal) == ["--protocol", "none", *PROTOCOLS]


@pytest.mark.parametrize(
    ("spelling", "field"),
    [
        ("-a", "arch"),
        ("--dataset_path", "data"),
        ("--seed_num", "seed"),
        ("--filter_size", "filter_size"),
        ("--apspool_criterion", "criterion"),
        ("--pool_only", "pool_only"),
        ("--conv_pad_type", "padding"),
        ("--circular_data_aug", "circular_data_aug"),
        ("--data_augmentation_flag", "circular_data_aug"),
        ("--data-augmentation", "circular_data_aug"),
        ("--max_shift", "circular_shift"),
        ("--validate_consistency", "validate_consistency"),
        ("--lr", "learning_rate"),
        ("--learning-rate", "learning_rate"),
        ("--wd", "weight_decay"),
        ("--weight_decay", "weight_decay"),
        ("--num_epochs", "epochs"),
        ("-ep", "epochs"),
        ("-b", "batch_size"),
        ("--batch_size", "batch_size"),
        ("-j", "workers"),
        ("--num_workers", "workers"),
        ("-e", "evaluate"),
        ("--evaluate_only", "evaluate"),
        ("--pretrained", "weights"),
        ("--step_size_lr", "step_epochs"),
        ("--gamma", "step_factor"),
        ("--scheduler_milestones", "milestones"),
        ("--train_split", "train_split"),
    ],
)
def test_the_authors_spellings_are_understood(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, spelling: str, field: str
) -> None:
    seen: dict[str, object] = {}

    class Stop(Exception):
        pass

    def capture(**values: object) -> None:
        seen.update(values)
        raise Stop

    monkeypatch.setattr("aps_deploy.training.command.TrainSettings", capture)
    values = {"padding": "zeros", "arch": "x", "data": "x", "criterion": "l1", "weights": "x"}
    is_flag = field in ("pool_only", "circular_data_aug", "validate_consistency", "evaluate")
    arguments = [spelling] if is_flag else [spelling, values.get(field, "5")]
    with pytest.raises(Stop):
        invoke("train", *arguments)
    assert seen[field] not in (None, False)
    assert all(value in (None, False) for name, value in seen.items() if name != field)


def test_the_authors_options_of_several_processes(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[TrainSettings, LaunchSettings]] = []
    monkeypatch.setattr("aps_deploy.training.command.launch", lambda *given: seen.append(given))
    result = invoke(
        *("train", "-a", "resnet18_aps3", "--data", "x", "--out-dir", "y", "--multiprocessing-distributed"),
        *("--world-size", "2", "--rank", "1", "--dist-url", "tcp://first:23456", "--dist-backend", "nccl"),
    )
    assert result.exit_code == 0, result.output
    ((settings, launching),) = seen
    assert settings.dist_backend == "nccl" and launching.multiprocessing_distributed
    assert (launching.num_machines, launching.node_rank, launching.endpoint) == (2, 1, "first:23456")
    assert settings.batch_size == 2 * 256  # theirs is one machine's


def test_the_authors_option_of_one_gpu(invoke: Invoke) -> None:
    result = invoke("train", "-a", "resnet20", "--data", "x", "--out-dir", "y", "--gpu", "1", "--device", "cpu")
    assert result.exit_code == 2 and "--gpu and --device exclude each other" in result.stderr
