"""What the README says of serving, typed as it stands there but for the ports."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.runtimes import graphs

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README[README.index("## Serve it") : README.index("### On other servers")]
LINES = [line[4:] for line in SECTION.splitlines() if line.startswith("    ")]
SERVE, SERVE_SECURELY = [line for line in LINES if line.startswith("aps-deploy ")]
(OPENSSL,) = [line for line in LINES if line.startswith("openssl ")]
CURL = [line for line in LINES if line.startswith("curl ") and "https" not in line]
(CURL_SECURELY,) = [line for line in LINES if line.startswith("curl ") and "https" in line]
CODE = "\n".join(LINES[LINES.index("import numpy as np") :]).partition("openssl")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a reader is, with his model and his picture."""
    path = tmp_path_factory.mktemp("reader")
    graphs.save(graphs.classifier(), path / "photos.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path / "picture.jpg")
    return path


@contextlib.contextmanager
def serving(line: str, folder: Path) -> Iterator[str]:
    """Run the command on free ports; yield the HTTP one."""
    _, *arguments = shlex.split(line)
    command = [sys.executable, "-m", "aps_deploy.cli", *arguments, "--port", "0", "--grpc-port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment) as process:
        try:
            assert process.stdout is not None
            match = re.match(r"ready: https?://127\.0\.0\.1:(\d+)", process.stdout.readline())
            assert match is not None
            yield match[1]
        finally:
            process.terminate()
            assert process.wait(60) == 0


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[str]:
    with serving(SERVE, folder) as port:
        yield port


@pytest.mark.parametrize("line", CURL)
def test_curl(line: str, folder: Path, port: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    command = shlex.split(line.replace(":8000", f":{port}"))
    result = subprocess.run([*command, "--silent"], capture_output=True, text=True, cwd=folder, check=False)
    assert result.returncode == 0
    assert not result.stdout.startswith('{"error"')
    if "classify" in line:
        assert '"scores"' in result.stdout and graphs.CLASS_NAMES[0] in result.stdout


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("openssl")), reason="the reader needs curl and openssl")
def test_with_tls_and_a_canary(folder: Path) -> None:
    subprocess.run(shlex.split(OPENSSL), capture_output=True, cwd=folder, check=True)
    with serving(SERVE_SECURELY, folder) as port:
        command = [*shlex.split(CURL_SECURELY.replace(":8000", f":{port}")), "--silent", "--show-error"]
        page, deadline = "", time.monotonic() + 60
        while 'aps_shift_consistency{model="photos",version="1"} 1' not in page and time.monotonic() < deadline:
            page = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True).stdout
    assert 'aps_canary_runs_total{model="photos",version="1"} 1' in page


def test_the_client(port: str) -> None:
    command = [sys.executable, "-c", CODE.replace(":8000", f":{port}")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"\[\[[-+.e0-9 ]+\]\]\n", result.stdout)
