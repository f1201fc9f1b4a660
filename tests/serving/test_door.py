"""Who is let in: a file whose certificate, beside it, passed and is of these bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from aps_deploy.errors import InputError
from aps_deploy.serving.door import check_certificate
from aps_deploy.serving.model import load_model
from aps_deploy.serving.model_config import CERTIFICATE_PARAMETER
from aps_deploy.serving.repository import Repository
from aps_deploy.serving.settings import ServeSettings
from tests.runtimes import graphs
from tests.serving.proof import certify
from tests.serving.support import running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return graphs.save(graphs.classifier(), tmp_path / "net.onnx")


def test_a_proven_file(file: Path) -> None:
    certify(file)
    assert check_certificate(file).passed


def refused(file: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        check_certificate(file)
    message = str(caught.value)
    assert all(word in message for word in words) and len(message.splitlines()) == 1
    assert "aps-deploy" in message


def test_what_is_refused(file: Path, tmp_path: Path) -> None:
    refused(tmp_path / "absent.onnx", "does not exist")
    refused(file, "has no certificate", "net.certificate.json")
    certify(file, passed=False)
    refused(file, "did not pass", "top1_consistency")
    certify(file, sha256="0" * 64)
    refused(file, "is of another file")
    certify(file).write_text("{}")
    refused(file, "is not a certificate")


def test_a_byte_changed_after_the_verification(file: Path) -> None:
    certify(file)
    file.write_bytes(file.read_bytes() + b"\0")
    refused(file, "is of another file")


def test_the_server_asks_for_it_when_told(file: Path) -> None:
    found = Repository(file).versions("net")[0]
    settings = ServeSettings(file, threads=1, require_certificate=True)
    with pytest.raises(InputError, match="has no certificate"):
        load_model(found.name, found.version, found.file, found.folder, found.config, settings)
    certify(file)
    with running(file, require_certificate=True) as server:
        assert server.request("GET", "/v2/health/ready")[0] == 200


@pytest.mark.parametrize("value", ["true", "false"])
def test_a_model_says_itself_that_it_needs_one(own_repository: Path, value: str) -> None:
    config = f'parameters {{ key: "{CERTIFICATE_PARAMETER}" value {{ string_value: "{value}" }} }}\n'
    (own_repository / "tiny" / "config.pbtxt").write_text(config)
    found = Repository(own_repository).versions("tiny")[0]
    arguments = (found.name, found.version, found.file, found.folder, found.config)
    settings = ServeSettings(own_repository, threads=1)
    if value == "false":
        assert load_model(*arguments, settings).name == "tiny"
    else:
        with pytest.raises(InputError, match="has no certificate"):
            load_model(*arguments, settings)
