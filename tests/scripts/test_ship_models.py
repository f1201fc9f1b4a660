"""The commands on a model card train the network they stand beside."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main

from aps_deploy.cli import app
from aps_deploy.files import write_json
from aps_deploy.training.settings import TrainSettings
from tests.scripts.loading import load_script


@pytest.fixture(scope="module")
def ship_models() -> ModuleType:
    return load_script("ship-models", "ship_models")


def settings_of(command: str) -> TrainSettings:
    """Return the settings a command line gives, parsed by the command itself."""
    program, verb, *arguments = shlex.split(command)
    assert (program, verb) == ("aps-deploy", "train")
    train = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    given = train.make_context(verb, arguments).params
    return TrainSettings(**{field.name: given[field.name] for field in dataclasses.fields(TrainSettings)})


def write_run(folder: Path, **chosen: Any) -> TrainSettings:
    settings = TrainSettings(data=Path("/somewhere/cifar"), out_dir=folder, workers=3, device="cpu", **chosen)
    folder.mkdir()
    write_json(folder / "settings.json", settings.to_dict())
    return settings


def chosen(settings: TrainSettings, private: set[str]) -> dict[str, Any]:
    return {key: value for key, value in settings.to_dict().items() if key not in private}


def test_commands_parse_to_the_settings_of_the_run(ship_models: ModuleType, tmp_path: Path) -> None:
    first = write_run(
        *(tmp_path / "first",),
        **{"arch": "resnet20_aps3", "recipe": "fast", "epochs": 30, "learning_rate": 0.05, "seed": 0},
        **{"nesterov": True, "flip": False, "channels_last": False, "compile": True, "circular_data_aug": True},
        **{"pool_only": False, "validate_consistency": True, "criterion": "l2"},
    )
    second = write_run(
        tmp_path / "second", arch="resnet20_aps3", flip=False, weights=tmp_path / "first" / "best.safetensors"
    )
    commands = ship_models.commands_of(tmp_path / "second")
    assert not any(str(tmp_path) in command or "/somewhere" in command for command in commands)
    for command, settings in zip(commands, (first, second), strict=True):
        assert chosen(settings_of(command), ship_models.PRIVATE_SETTINGS) == chosen(
            settings, ship_models.PRIVATE_SETTINGS
        )
    assert [settings_of(command).weights for command in commands] == [None, Path("runs/first/best.safetensors")]
    assert settings_of(commands[0]).out_dir == Path("runs/first")


def test_weights_that_are_no_run(ship_models: ModuleType, tmp_path: Path) -> None:
    write_run(tmp_path / "tuned", arch="resnet20", weights=Path("resnet20.cifar10"))
    (command,) = ship_models.commands_of(tmp_path / "tuned")
    assert settings_of(command).weights == Path("resnet20.cifar10")


@pytest.mark.parametrize("value", [True, False])
def test_every_switch_has_both_spellings(ship_models: ModuleType, tmp_path: Path, value: bool) -> None:
    switches = [
        name
        for name, kind in TrainSettings.__annotations__.items()
        if "bool" in kind and name not in ship_models.PRIVATE_SETTINGS
    ]
    assert len(switches) >= 7
    settings = write_run(tmp_path / "run", arch="resnet20", **dict.fromkeys(switches, value))
    (command,) = ship_models.commands_of(tmp_path / "run")
    assert chosen(settings_of(command), ship_models.PRIVATE_SETTINGS) == chosen(settings, ship_models.PRIVATE_SETTINGS)
