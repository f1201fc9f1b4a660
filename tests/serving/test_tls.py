"""TLS on both ports, with certificates made here."""

from __future__ import annotations

import http.client
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from aps_deploy.errors import InputError
from aps_deploy.serving.settings import ServeSettings
from aps_deploy.serving.tls import check_key_pair
from tests.serving.support import Running, running, tensor

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificates")


def make_key_pair(folder: Path, name: str, *, password: str | None = None) -> tuple[Path, Path]:
    """Return the files of a certificate for localhost and 127.0.0.1, signed by itself, and of its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
    command += ["-nodes"] if password is None else ["-passout", f"pass:{password}"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Path, Path]:
    return make_key_pair(folder, "server")


@pytest.fixture(scope="module")
def secured(repository: Path, pair: tuple[Path, Path]) -> Iterator[Running]:
    with running(repository / "grown" / "1" / "model.onnx", tls_cert=pair[0], tls_key=pair[1]) as server:
        yield server


def https_status(server: Running, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", server.where.port, timeout=30, context=context)
    try:
        connection.request("GET", "/v2")
        return connection.getresponse().status
    finally:
        connection.close()


def test_https(secured: Running, pair: tuple[Path, Path]) -> None:
    assert secured.where.url == f"https://127.0.0.1:{secured.where.port}"
    assert https_status(secured, ssl.create_default_context(cafile=pair[0])) == 200


def test_who_does_not_know_the_certificate_is_warned(secured: Running) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        https_status(secured, ssl.create_default_context())


@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated:DeprecationWarning")
def test_old_versions_are_refused(secured: Running, pair: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(cafile=pair[0])
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        https_status(secured, context)


def test_nothing_is_said_in_the_clear(secured: Running) -> None:
    with pytest.raises((http.client.HTTPException, OSError)):
        secured.request("GET", "/v2")
    with secured.client("grpc") as client, pytest.raises(InferenceServerException):
        client.is_server_live(client_timeout=5)


def test_the_clients(secured: Running, pair: tuple[Path, Path]) -> None:
    url, values = f"127.0.0.1:{secured.where.port}", np.ones((1, 2), np.float32)
    with tritonclient.http.InferenceServerClient(url, ssl=True, ssl_options={"ca_certs": str(pair[0])}) as client:
        result = client.infer("model", [tensor(tritonclient.http, "x", values, "FP32")])
        assert result.as_numpy("y").tolist() == [[2, 2]]
    url = f"127.0.0.1:{secured.where.grpc_port}"
    with tritonclient.grpc.InferenceServerClient(url, ssl=True, root_certificates=str(pair[0])) as client:
        result = client.infer("model", [tensor(tritonclient.grpc, "x", values, "FP32")])
        assert result.as_numpy("y").tolist() == [[2, 2]]


def test_what_is_no_pair(folder: Path, pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    other = make_key_pair(folder, "other")[1]
    encrypted = make_key_pair(folder, "encrypted", password="secret")
    nothing = folder / "nothing.pem"
    for given in ((certificate, other), encrypted, (key, key)):
        with pytest.raises(InputError, match="are no TLS certificate with its key") as caught:
            check_key_pair(*given)
        assert len(str(caught.value).splitlines()) == 1
    for given in ((certificate, nothing), (nothing, key)):
        with pytest.raises(InputError, match=r"nothing\.pem cannot be read"):
            check_key_pair(*given)
    check_key_pair(certificate, key)


def test_one_without_the_other(tmp_path: Path) -> None:
    for option in ("tls_cert", "tls_key"):
        with pytest.raises(InputError, match="go together"):
            ServeSettings(tmp_path, **{option: tmp_path / "file"})  # type: ignore[arg-type]
