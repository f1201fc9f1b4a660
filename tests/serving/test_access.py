"""Who is let in, over both protocols."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from aps_deploy.errors import InputError
from aps_deploy.serving.access import TOKEN_VARIABLE, Gate, HostNames, read_token
from aps_deploy.serving.errors import ForbiddenError, UnauthenticatedError
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


OURS = [
    "localhost",
    "localhost:8000",
    "LocalHost:8000",
    "a.localhost",
    "127.0.0.1",
    "127.0.0.1:80",
    "[::1]:8000",
    "127.1.2.3",
]
OTHERS = [
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "10.0.0.1:8000",
    "[::2]",
    "",
]


@pytest.mark.parametrize("name", OURS)
def test_names_of_this_machine(name: str) -> None:
    HostNames("127.0.0.1", (), has_token=False).check(name.encode())


@pytest.mark.parametrize("name", OTHERS)
def test_a_page_that_points_its_own_name_here_is_refused(name: str) -> None:
    for address in ("127.0.0.1", "::1", "localhost"):
        with pytest.raises(ForbiddenError, match="does not answer to the name") as caught:
            HostNames(address, ("proxy.example",), has_token=False).check(name.encode())
        assert caught.value.http_status == 403
    # Whoever opens the server to other machines, or asks for a token, has other names or another guard.
    HostNames("0.0.0.0", (), has_token=False).check(name.encode())
    HostNames("127.0.0.1", (), has_token=True).check(name.encode())


def test_a_proxy_may_pass_its_name_on(repository: Path) -> None:
    file = repository / "grown" / "1" / "model.onnx"
    with running(file, allow_hosts=("Proxy.example",)) as server:
        for path in ("/v2", "/v2/models/model", "/metrics"):
            assert server.request("GET", path, headers={"Host": "proxy.example:443"})[0] == 200
            assert server.request("GET", path, headers={"Host": "evil.example"})[0] == 403
        entry = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0, 0]}
        status, answer = server.json("POST", "/v2/models/model/infer", {"inputs": [entry]}, Host="evil.example")
        assert status == 403 and "--allow-host evil.example" in answer["error"]
        assert server.request("GET", "/v2/health/live", headers={"Host": "evil.example"})[0] == 200
