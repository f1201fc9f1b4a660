"""What the demonstration leaves for the server."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from aps_deploy.demo.live import serve_command, write_repository
from aps_deploy.export import export_checkpoint
from aps_deploy.serving.repository import Repository
from tests.serving.support import running


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository as the demonstration writes it, in a folder that needs quoting."""
    file = export_checkpoint("resnet20_aps3.cifar10", tmp_path / "aps.onnx").path
    folder = tmp_path / "my models"
    write_repository(folder, {"aps": file})
    return folder


def test_the_server_reads_it(repository: Path) -> None:
    assert Repository(repository).names() == ["aps"]
    with running(repository) as server:
        assert server.json("GET", "/v1/models/aps")[1]["promise"] == "bits"
        assert server.request("GET", "/")[0] == 200


def test_the_command_can_be_typed(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository.parent)
    monkeypatch.setattr(sys, "argv", ["cli.py"])
    command = serve_command(repository)
    assert command.endswith(" -m aps_deploy.cli serve 'my models'")
    monkeypatch.setattr(sys, "argv", ["/opt/bin/aps-deploy"])
    assert serve_command(repository.parent.parent) == f"/opt/bin/aps-deploy serve {repository.parent.parent}"
    with subprocess.Popen(
        [*shlex.split(command), "--port", "0", "--no-grpc"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready: http://127.0.0.1:")
        finally:
            process.terminate()
