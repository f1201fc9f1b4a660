"""The certificate and the key with which the server speaks TLS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from aps_deploy.errors import InputError


def check_key_pair(certificate: Path, key: Path) -> None:
    """Do nothing where both files can be read, and belong together.

    Raises:
        InputError: they cannot, or do not, or the key is encrypted.
    """
    for name, file in (("certificate", certificate), ("key", key)):
        try:
            file.read_bytes()
        except OSError as error:
            raise InputError(f"the TLS {name} {file} cannot be read ({error.strerror}).") from None
    try:
        # Asked for a password it would wait for somebody to type one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise InputError(
            f"{certificate} and {key} are no TLS certificate with its key ({error}); give two PEM files, the "
            "key without a password."
        ) from None


def grpc_credentials(certificate: Path, key: Path) -> Any:
    """Return gRPC's server credentials of a checked pair."""
    import grpc

    return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])


def _no_password() -> bytes:
    raise ValueError("the key is encrypted")
