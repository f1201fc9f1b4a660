"""What the README tells people to type exists: commands, options, scripts and Python names."""

from __future__ import annotations

import ast
import os
import re
import shlex
from pathlib import Path

import pytest
import typer.main

import aps_deploy
from aps_deploy.cli import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [line.strip() for line in README.splitlines() if line.startswith("    ")]
COMMANDS = [line for line in LINES if line.startswith("aps-deploy ")]
SCRIPTS = [line for line in LINES if line.startswith("./scripts/")]


def test_there_is_something_to_check() -> None:
    verbs = {line.split()[1] for line in COMMANDS}
    assert {"train", "evaluate", "export", "verify", "predict"} <= verbs
    assert {"./scripts/demo", "./scripts/test"} <= {line.split()[0] for line in SCRIPTS}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str) -> None:
    _, verb, *arguments = shlex.split(line, comments=True)
    group = typer.main.get_command(app)
    command = group.commands[verb]  # type: ignore[attr-defined]
    # Parses and converts the arguments, as a run would, and stops before the command's own code.
    command.make_context(verb, arguments)


@pytest.mark.parametrize("line", SCRIPTS)
def test_every_script_is_there(line: str) -> None:
    assert os.access(ROOT / line.split()[0], os.X_OK)


def test_the_table_of_commands_is_complete() -> None:
    listed = re.findall(r"^\| `aps-deploy ([a-z]+)`", README, flags=re.MULTILINE)
    assert sorted(listed) == sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_the_python_names_exist() -> None:
    start = README.index("    import aps_deploy")
    code = re.match(r"(?:(?:    .*)?\n)+", README[start:])
    assert code is not None
    tree = ast.parse("\n".join(line[4:] for line in code[0].splitlines()))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "aps_deploy"
    }
    assert used
    for name in used:
        assert hasattr(aps_deploy, name)
