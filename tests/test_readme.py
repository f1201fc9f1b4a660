"""What the README tells people to type exists: commands, options, scripts and Python names."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import typer.main
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import aps_deploy
from aps_deploy.cli import app
from aps_deploy.files import sha256_of
from tests.conversion.support import full_network

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


# What is appended to a command to make it small; the command itself is run as it stands in the README.
SMALLER = {
    # Steps as small as these leave the network near its initialisation: diverged, it would see constants, all tied.
    "train": "--epochs 2 --batch-size 4 --lr 0.001 --image-size 64 --resize 72 --workers 0 --device cpu --no-progress",
    "evaluate": "--shifts 2 --shift-images 4 --device cpu --no-progress",
    "convert": "",
    "export": "",
    "verify": "--images 4 --shifts 4 --device cpu",
    "predict": "--device cpu",
    "package": "",
    "bench": "--rounds 1 --device cpu",
}


@pytest.mark.slow
def test_the_commands_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the folder of photographs that the README describes, here of coloured clouds."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 2)):  # int8 refuses fewer than 32 images
        for label, name in enumerate(("cat", "dog")):
            folder = Path("photos", split, name)
            folder.mkdir(parents=True)
            for number in range(count):
                clouds = generator.integers(100 * label, 100 * label + 150, (9, 10, 3), dtype=np.uint8)
                Image.fromarray(clouds).resize((100, 90), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    Image.open("photos/val/cat/0.jpg").save("picture.jpg")

    from tests.conversion.timm_support import whole_network

    torch.save(full_network("mobilenet_v2").state_dict(), "mobile.pth")
    save_file(whole_network("resnet18d").state_dict(), "resnet18d.safetensors")

    outputs: dict[str, str] = {}
    for line in COMMANDS:
        _, verb, *arguments = shlex.split(line, comments=True)
        if verb == "serve":
            continue  # ends only when it is told to: tests/serving/test_readme.py
        # A saved certificate is judged without running anything.
        smaller = "" if "--from" in arguments else SMALLER[verb]
        if "--nproc-per-node" in arguments:
            smaller += " --nproc-per-node 2"
        if "--probe" in arguments:
            shutil.copyfile("photos.onnx", "any.onnx")
            smaller = "--images 1"
        result = CliRunner().invoke(app, [verb, *arguments, *shlex.split(smaller)])
        if verb != "export" and arguments[0].endswith(".plan"):
            # Engines run on GPUs only: what they answer is a test of ./scripts/gpu-test, what is said here is this.
            assert result.exit_code == 2
            assert result.stderr.strip() == "Error: TensorRT for RTX cannot run on 'cpu'; accepted: cuda."
            continue
        assert result.exit_code == 0, f"{line}: {result.output}"
        outputs[verb] = result.stdout

    assert set(outputs) == set(SMALLER)
    assert re.search(r"^accuracy +\d+\.\d\d %$", outputs["evaluate"], flags=re.MULTILINE)
    assert json.loads(Path("photos.json").read_text())["sha256"] == sha256_of("photos.onnx")
    certificates = sorted(Path().glob("*certificate*.json"))
    stems = ("mobile", "photos-engine", "photos-fast", "photos-fp16", "photos-jetson", "photos")
    assert [path.name for path in certificates] == [f"{stem}.certificate.json" for stem in stems]
    assert all(json.loads(path.read_text())["passed"] for path in certificates)
    for name in ("photos.html", "photos.xml"):
        assert Path(name).stat().st_size > 1000
    assert {"cat", "dog"} <= set(outputs["predict"].split())
