"""Who is let in, over both protocols."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from aps_deploy.errors import InputError
from aps_deploy.serving.access import TOKEN_VARIABLE, Gate, read_token
from aps_deploy.serving.errors import UnauthenticatedError
from aps_deploy.serving.settings import ServeSettings
from tests.serving.support import Running, running

TOKEN = "correct-horse"


@pytest.fixture(scope="module")
def guarded(repository: Path) -> Iterator[Running]:
    with running(repository / "grown" / "1" / "model.onnx", token=TOKEN) as server:
        yield server


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
def test_without_the_token_nobody_gets_in(guarded: Running, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    for method, path in (("GET", "/v2"), ("GET", "/metrics"), ("POST", "/v2/models/model/infer")):
        status, answer_headers, body = guarded.request(method, path, headers=headers)
        assert status == 401 and answer_headers["www-authenticate"] == "Bearer"
        assert b"Authorization: Bearer TOKEN" in body and TOKEN.encode() not in body
    with guarded.client("grpc") as client, pytest.raises(InferenceServerException) as caught:
        client.get_server_metadata(headers={"authorization": given or ""})
    assert caught.value.status() == "StatusCode.UNAUTHENTICATED"


def test_with_the_token_everything_is_open(guarded: Running) -> None:
    for scheme in ("Bearer", "bearer"):
        headers = {"authorization": f"{scheme} {TOKEN}"}
        for transport in ("http", "grpc"):
            with guarded.client(transport) as client:
                assert client.is_model_ready("model", headers=headers)
                assert client.get_server_metadata(headers=headers)


def test_probes_need_none(guarded: Running) -> None:
    for transport in ("http", "grpc"):
        with guarded.client(transport) as client:
            assert client.is_server_live() and client.is_server_ready()


def test_a_stream_needs_it_too(guarded: Running) -> None:
    errors: list[object] = []
    with guarded.client("grpc") as client:
        client.start_stream(lambda result, error: errors.append(error))
        while not errors:
            time.sleep(0.002)
    assert "no valid token" in str(errors[0])


def test_where_the_token_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, "of-the-environment")
    assert read_token(None) == "of-the-environment"
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file) == TOKEN
    file.write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        read_token(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_token(tmp_path / "nothing")


def test_the_token_is_not_shown(tmp_path: Path) -> None:
    assert TOKEN not in repr(ServeSettings(tmp_path, token=TOKEN))
    with pytest.raises(InputError, match="use letters and digits") as caught:
        ServeSettings(tmp_path, token="secret\nline")
    assert "secret" not in str(caught.value)


def test_an_open_gate_lets_everybody_in() -> None:
    Gate(None).check(None)
    with pytest.raises(UnauthenticatedError):
        Gate(TOKEN).check("Bearer ä")
