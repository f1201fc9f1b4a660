"""The server under load: where it is, which of its models is asked, and what that model takes."""

from __future__ import annotations

import dataclasses
import json
import re
import ssl
import urllib.error
import urllib.request
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

from aps_deploy.errors import ApsError, InputError

_TIMEOUT_S = 30.0
_PORTS = {"http": 8000, "https": 8000, "grpc": 8001}


@dataclasses.dataclass(frozen=True)
class Address:
    """What ``--url`` says.

    Attributes:
        scheme: ``http``, ``https`` or ``grpc``.
        host: the server.
        port: its port.
        model: the model; None where the server has only one.
        version: its version; None for the latest.
    """

    scheme: Literal["http", "https", "grpc"]
    host: str
    port: int
    model: str | None
    version: str | None

    @property
    def authority(self) -> str:
        """Host and port as a URL has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a model.

    Attributes:
        name: its name.
        datatype: the protocol's element type, such as ``FP32``.
        shape: its dimensions; -1 where any will do.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


def parse_address(url: str) -> Address:
    """Return what a URL says: ``http://HOST:PORT``, with ``/v2/models/NAME`` where there are several models.

    Raises:
        InputError: it is no such URL.
    """
    accepted = "accepted: http://HOST:PORT, https://HOST:PORT or grpc://HOST:PORT, each with /v2/models/NAME or without"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"--url is {url!r} ({error}); {accepted}.") from None
    path = re.fullmatch(r"(?:/v2/models/([^/]+)(?:/versions/(\d+))?(?:/infer)?)?/?", parts.path)
    if parts.scheme not in _PORTS or not parts.hostname or path is None or parts.query or parts.fragment:
        raise InputError(f"--url is {url!r}; {accepted}.")
    model = None if path[1] is None else unquote(path[1])
    scheme: Any = parts.scheme
    return Address(scheme, parts.hostname, port or _PORTS[parts.scheme], model, path[2])


def find_model(address: Address, token: str | None) -> tuple[Address, tuple[Input, ...]]:
    """Return the address with the model's name, and the model's inputs.

    Raises:
        InputError: the model is not there, not ready, or has to be named.
        ApsError: nobody answers.
    """
    documents = _grpc_documents if address.scheme == "grpc" else _http_documents
    names, metadata = documents(address, token)
    if metadata is None:
        raise InputError(
            f"--url names no model, and the server has {', '.join(names) or 'none that is ready'}; "
            f"add /v2/models/NAME to it."
        )
    inputs = tuple(
        Input(entry["name"], entry["datatype"], tuple(int(size) for size in entry.get("shape", ())))
        for entry in metadata["inputs"]
    )
    return dataclasses.replace(address, model=metadata["name"]), inputs


def model_path(address: Address) -> str:
    """Return the path of a named model in the protocol."""
    version = "" if address.version is None else f"/versions/{address.version}"
    return f"/v2/models/{quote(address.model or '', safe='')}{version}"


def bearer(token: str | None) -> dict[str, str]:
    """Return the header that carries a token."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def tls_context(address: Address) -> ssl.SSLContext | None:
    """Return what checks the server's certificate; None without TLS."""
    return ssl.create_default_context() if address.scheme == "https" else None


def nobody_answers(address: Address, reason: object) -> ApsError:
    """Return the error of a server that cannot be reached."""
    return ApsError(
        f"nobody answers at {address.scheme}://{address.authority} ({reason}); start a server with "
        "`aps-deploy serve FILE`, or give another --url."
    )


def _http_documents(address: Address, token: str | None) -> tuple[list[str], dict[str, Any] | None]:
    names = []
    if address.model is None:
        index = _http_json(address, "POST", "/v2/repository/index", token)
        names = sorted({entry["name"] for entry in index if entry.get("state") == "READY"})
        if len(names) != 1:
            return names, None
        address = dataclasses.replace(address, model=names[0])
    document: dict[str, Any] = _http_json(address, "GET", model_path(address), token)
    return names, document


def _http_json(address: Address, method: str, path: str, token: str | None) -> Any:
    url = f"{address.scheme}://{address.authority}{path}"
    data = b"{}" if method == "POST" else None
    request = urllib.request.Request(url, data, {**bearer(token), "Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=tls_context(address)) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise InputError(f"{url} answers {error.code}: {error_of(error.read())}; check --url.") from None
    except (OSError, ValueError) as error:
        raise nobody_answers(address, getattr(error, "reason", error)) from None


def error_of(body: bytes) -> str:
    """Return the sentence in a refusal's body."""
    try:
        return str(json.loads(body)["error"]).rstrip(".")
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace") or "nothing"


def _grpc_documents(address: Address, token: str | None) -> tuple[list[str], dict[str, Any] | None]:
    from aps_deploy.bench.grpc_calls import require_grpc

    require_grpc()
    import tritonclient.grpc
    from tritonclient.utils import InferenceServerException

    headers = {key.lower(): value for key, value in bearer(token).items()}
    names = []
    try:
        with tritonclient.grpc.InferenceServerClient(address.authority) as client:
            if address.model is None:
                index = client.get_model_repository_index(headers=headers, client_timeout=_TIMEOUT_S).models
                names = sorted({entry.name for entry in index if entry.state == "READY"})
                if len(names) != 1:
                    return names, None
            metadata = client.get_model_metadata(
                address.model or names[0],
                address.version or "",
                headers=headers,
                as_json=True,
                client_timeout=_TIMEOUT_S,
            )
            return names, metadata
    except InferenceServerException as error:
        if error.status() in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"):
            raise nobody_answers(address, error.message().rstrip(".")) from None
        raise InputError(f"the server answers {error.message().rstrip('.')}; check --url.") from None
