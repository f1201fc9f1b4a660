"""What `aps-deploy serve` refuses, in one sentence, before it serves anything."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aps_deploy.cli import app
from aps_deploy.serving.settings import ServeSettings
from tests.cli.conftest import Invoke
from tests.cli.test_bad_input import is_one_sentence

FREE_PORTS = ("--port", "0", "--grpc-port", "0")


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
def test_a_port_in_use(invoke: Invoke, foreign_onnx: Path, taken: int, option: str) -> None:
    result = invoke("serve", foreign_onnx, *FREE_PORTS, option, str(taken))
    is_one_sentence(result, f"127.0.0.1:{taken}", "in use", option)


def test_a_host_that_is_not_here(invoke: Invoke, foreign_onnx: Path) -> None:
    is_one_sentence(invoke("serve", foreign_onnx, *FREE_PORTS, "--host", "192.0.2.1"), "cannot listen on 192.0.2.1")


def test_what_is_not_there(invoke: Invoke, tmp_path: Path) -> None:
    is_one_sentence(invoke("serve", tmp_path / "nothing", *FREE_PORTS), "nothing does not exist")
    is_one_sentence(invoke("serve", tmp_path, *FREE_PORTS), "holds no model", "NAME/1/model.onnx")


def test_what_is_no_onnx_file(invoke: Invoke, tmp_path: Path, checkpoint: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    is_one_sentence(invoke("serve", broken, *FREE_PORTS), "broken.onnx is not an ONNX file")
    is_one_sentence(invoke("serve", checkpoint, *FREE_PORTS), "is no ONNX file", "aps-deploy export")


@pytest.mark.parametrize("module", ["uvicorn", "grpc", "tritonclient"])
def test_the_extra_is_not_installed(
    invoke: Invoke, foreign_onnx: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    find = importlib.util.find_spec

    def find_others(name: str, *arguments: Any) -> ModuleSpec | None:
        return None if name == module else find(name, *arguments)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)
    is_one_sentence(invoke("serve", foreign_onnx), "is not installed", 'pip install "aps-deploy[serve]"')


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--max-batch", "0"), "--max-batch is 0; accepted: 1 to 65536"),
        (("--max-batch", str(10**20)), f"--max-batch is {10**20}; accepted: 1 to 65536"),
        (("--threads", str(10**11)), f"--threads is {10**11}; accepted: 1 to 4096"),
        (("--instances", str(10**20)), f"--instances is {10**20}; accepted: 1 to 1024"),
        (("--max-queue", "-1"), "--max-queue is -1"),
        (("--deadline-ms", "0"), "--deadline-ms is 0.0"),
        (("--port", "65536"), "--port is 65536; accepted: 0 to 65535"),
        (("--port", "9000", "--grpc-port", "9000"), "both 9000"),
        (("--token-file", "no-such-file"), "the token file no-such-file cannot be read"),
        (("--token", "sesame"), "--token"),  # every user of the machine could read it
        (("--canary", "0"), "--canary is 0.0; accepted: a number of seconds, more than 0"),
        (("--canary-unready",), "--canary-unready is for --canary SECONDS"),
        (("--canary-image", "photo.jpg"), "--canary-image is for --canary SECONDS"),
        (("--canary", "60", "--canary-image", "no-such-image.jpg"), "no-such-image.jpg does not exist"),
        (("--tls-cert", "cert.pem"), "--tls-cert and --tls-key go together"),
        (("--tls-cert", "no-such.pem", "--tls-key", "key.pem"), "no-such.pem cannot be read"),
        (("--max-connections", "0"), "--max-connections is 0; accepted: 1 to 1048576"),
        (("--max-connections", str(10**20)), f"--max-connections is {10**20}; accepted: 1 to 1048576"),
        (("--max-body-mb", "inf"), "--max-body-mb is inf; accepted: more than 0, at most 1048576"),
        (("--max-header-kb", "1e300"), "--max-header-kb is 1e+300; accepted: more than 0, at most 1048576"),
        (("--body-timeout-s", "inf"), "--body-timeout-s is inf; accepted: more than 0, at most 1000000"),
        (("--drain-s", "inf"), "--drain-s is inf; accepted: 0 to 1000000"),
        (("--header-timeout-s", "0"), "--header-timeout-s is 0.0; accepted: more than 0"),
        (("--runtime", "onnxruntime-kernels", *FREE_PORTS), "or use --runtime onnxruntime."),
        (("--runtime", "torch", *FREE_PORTS), "'torch' is not one of 'onnxruntime', 'onnxruntime-kernels'"),
        (("--device", "tpu", *FREE_PORTS), "unknown device 'tpu'"),
        (("--traces", "collector:4318", *FREE_PORTS), "--traces is 'collector:4318'; give a collector's address"),
    ],
)
def test_wrong_options(invoke: Invoke, foreign_onnx: Path, arguments: tuple[str, ...], words: str) -> None:
    is_one_sentence(invoke("serve", foreign_onnx, *arguments), words)


def test_options_reach_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[ServeSettings] = []
    monkeypatch.setattr("aps_deploy.serving.running.run_server", lambda settings, started: seen.append(settings))
    monkeypatch.setenv("APS_DEPLOY_TOKEN", "of-the-environment")
    options = ["--no-grpc", "--max-batch", "3", "--batching", "never", "--allow-control", "--instances", "2"]
    options += ["--canary", "30", "--canary-image", "photo.jpg", "--canary-unready", "--max-connections", "7"]
    options += ["--runtime", "onnxruntime-kernels", "--no-page", "--traces", "http://127.0.0.1:4318"]
    options += ["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--header-timeout-s", "3", "--body-timeout-s", "4"]
    result = CliRunner().invoke(app, ["serve", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    (settings,) = seen
    assert settings == ServeSettings(
        tmp_path,
        grpc_port=None,
        max_batch=3,
        batching="never",
        allow_control=True,
        instances=2,
        canary_s=30.0,
        canary_image=Path("photo.jpg"),
        canary_unready=True,
        max_connections=7,
        header_timeout_s=3.0,
        body_timeout_s=4.0,
        tls_cert=Path("cert.pem"),
        tls_key=Path("key.pem"),
        token="of-the-environment",
        traces="http://127.0.0.1:4318",
        page=False,
        runtime="onnxruntime-kernels",
    )
    assert "of-the-environment" not in result.output
