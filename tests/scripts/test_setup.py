"""The set-up that every script sources, where an interpreter is given and nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2].resolve()
SHELLS = {
    "sh": ["sh", "-eu"],
    "bash": ["bash", "-euo", "pipefail"],
}
# Folders inside the checkout, and the way from each to the script.
INSIDE = {".": "scripts/setup", "tests": "../scripts/setup", "aps_deploy/models": "../../scripts/setup"}


def run(command: list[str], cwd: Path, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    environment = {**os.environ, "APS_DEPLOY_PYTHON": python, "OMP_NUM_THREADS": "1"}
    environment.pop("aps_setup_for", None)
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def source(shell: str, script: str, cwd: Path, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    line = f'. "{script}"; echo "$aps_python"; echo "$aps_root"; pwd -P'
    return run([*SHELLS[shell], "-c", line], cwd, python)


@pytest.mark.parametrize("folder", INSIDE)
@pytest.mark.parametrize("shell", SHELLS)
def test_sourced_inside_the_checkout(shell: str, folder: str) -> None:
    result = source(shell, INSIDE[folder], ROOT / folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [sys.executable, str(ROOT), str((ROOT / folder).resolve())]
    assert result.stderr == ""


def test_sourced_from_another_folder_by_bash(tmp_path: Path) -> None:
    result = source("bash", str(ROOT / "scripts" / "setup"), tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[:2] == [sys.executable, str(ROOT)]


@pytest.mark.parametrize("shell", SHELLS)
def test_sourced_by_a_script_that_is_called_from_another_folder(shell: str, tmp_path: Path) -> None:
    """As the scripts beside it do."""
    checkout = tmp_path / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    for name in ("scripts/setup", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout / name)
    caller = checkout / "scripts" / "caller"
    caller.write_text('. "$(dirname "$0")/setup"\necho "$aps_root"\n')
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = run([*SHELLS[shell], str(caller)], elsewhere)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [str(checkout.resolve())]


def test_sh_says_so_where_it_cannot_know_the_folder(tmp_path: Path) -> None:
    # POSIX sh does not tell a sourced file its path; a shell that does (bash as sh) finds the repository.
    result = source("sh", str(ROOT / "scripts" / "setup"), tmp_path)
    if result.returncode == 0:
        assert result.stdout.splitlines()[1] == str(ROOT)
    else:
        assert result.stderr == "setup: cannot find the repository; run this from its root.\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_an_interpreter_that_is_none(shell: str) -> None:
    result = source(shell, "scripts/setup", ROOT, python="/nowhere/python")
    assert result.returncode != 0 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "APS_DEPLOY_PYTHON=/nowhere/python" in line


def test_the_test_script_passes_its_arguments_on(tmp_path: Path) -> None:
    result = run([str(ROOT / "scripts" / "test"), "--collect-only", "tests/test_imports.py"], tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "tests/test_imports.py::test_every_folder_has_modules" in result.stdout
    assert "tests/test_images.py" not in result.stdout
