"""What the wheel and the sdist hold, and that the wheel works away from the checkout."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import aps_deploy

pytest.importorskip("hatchling", reason="hatchling builds the package; install the extra 'test'")

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _build(target: str, folder: Path) -> Path:
    """Build without isolation, so that no network is needed."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _sources() -> set[str]:
    """Every source and asset, and the compiled kernels where they are, as it should be named in the wheel."""
    named = {"aps_deploy/cli.py"}
    for folder in ("aps_deploy", "training", "export", "plugins"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".tmp":
                relative = path.relative_to(ROOT).as_posix()
                named.add(relative if folder == "aps_deploy" else f"aps_deploy/{relative}")
    return named


def test_wheel_puts_nothing_generic_into_site_packages(wheel_names: set[str]) -> None:
    top = {name.split("/")[0] for name in wheel_names}
    assert top == {"aps_deploy", f"aps_deploy-{PROJECT['version']}.dist-info"}


def test_wheel_holds_every_source_and_asset(wheel_names: set[str]) -> None:
    inside = {name for name in wheel_names if name.startswith("aps_deploy/")}
    assert inside == _sources()


def test_wheel_carries_the_licence(wheel_names: set[str]) -> None:
    assert f"aps_deploy-{PROJECT['version']}.dist-info/licenses/LICENSE" in wheel_names


def test_sdist_holds_what_a_build_needs(tmp_path: Path) -> None:
    sdist = _build("sdist", tmp_path)
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "cli.py", "constraints.txt", "scripts/setup"} <= names
    sources = {name.removeprefix("aps_deploy/") for name in _sources() if name.count("/") > 1}
    sources.discard("plugins/cpu/libaps_cpu.so")  # compiled where the sdist is built into a wheel
    assert all(name in names or f"aps_deploy/{name}" in names for name in sources)
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "build", "runs"))]


def test_version_is_said_once_and_the_same() -> None:
    assert aps_deploy.__version__ == PROJECT["version"]


def test_constraints_pin_every_dependency_without_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert "torch" in pins and "torchvision" in pins
    for requirement in PROJECT["dependencies"]:
        name = requirement.split(">")[0].split(";")[0].strip()
        assert name in pins, f"constraints.txt does not pin {name}"
    assert not [line for line in lines if "://" in line or "--hash" in line]


def test_unpacked_wheel_imports_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site_folder = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site_folder)
    code = (
        "import aps_deploy, aps_deploy.training, aps_deploy.export, aps_deploy.plugins, aps_deploy.cli as cli;"
        "print(aps_deploy.__file__, aps_deploy.training.__file__, cli.__file__, sep='\\n')"
    )
    environment = os.environ | {"PYTHONPATH": str(site_folder)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    for line in result.stdout.splitlines():
        assert Path(line).is_relative_to(site_folder)


@pytest.mark.slow
def test_installed_wheel_runs_the_demo_elsewhere(wheel: Path, tmp_path: Path) -> None:
    environment_folder = tmp_path / "venv"
    venv.create(environment_folder, with_pip=True)
    python = environment_folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, cwd=tmp_path)
    # The dependencies are borrowed from this environment, so that no network is needed. Its own .pth files (this
    # checkout, installed editable) are not followed from here.
    (installed,) = environment_folder.glob("lib/python*/site-packages")
    (installed / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [str(environment_folder / "bin" / "aps-deploy"), "demo"]
    result = subprocess.run(
        command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False, timeout=1800
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
