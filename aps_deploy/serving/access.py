"""Who may send requests: those who carry the bearer token, no other site's page, and to no other name than ours."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Collection
from pathlib import Path

from aps_deploy.errors import InputError
from aps_deploy.serving.errors import ForbiddenError, UnauthenticatedError

TOKEN_VARIABLE = "APS_DEPLOY_TOKEN"
"""Environment variable that holds the token where no file is given; a command line can be read by every user."""


def read_token(file: Path | None) -> str | None:
    """Return the token in a file, or in the environment; None where there is neither.

    Raises:
        InputError: the file cannot be read or is empty.
    """
    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file {file} cannot be read ({error}).") from None
    if not token:
        raise InputError(f"the token file {file} is empty; write one line of letters and digits into it.")
    return token


class Gate:
    """Lets requests in that carry the token.

    Args:
        token: the token; None lets everybody in.
    """

    def __init__(self, token: str | None) -> None:
        self._wanted = None if token is None else f"Bearer {token}".encode()

    def check(self, authorization: str | bytes | None) -> None:
        """Do nothing where the value of the ``Authorization`` header carries the token.

        Raises:
            UnauthenticatedError: it does not.
        """
        if self._wanted is None:
            return
        given = authorization.encode() if isinstance(authorization, str) else authorization or b""
        scheme, _, token = given.partition(b" ")
        # In constant time: how long it takes must not tell how much of a guess was right.
        if not hmac.compare_digest(scheme.capitalize() + b" " + token.strip(), self._wanted):
            raise UnauthenticatedError("the request carries no valid token; send it as 'Authorization: Bearer TOKEN'.")


def refuse_other_sites(fetch_site: bytes | None) -> None:
    """Do nothing where a request does not come from another site's page.

    Browsers let any page send requests to a server on the visitor's own machine, and say so in a header; the page
    cannot read the answer, but a model would be unloaded all the same.

    Args:
        fetch_site: value of the header ``Sec-Fetch-Site``; None where there is none.

    Raises:
        ForbiddenError: it does.
    """
    if fetch_site in (b"cross-site", b"same-site"):
        raise ForbiddenError("this server answers no requests from the pages of other sites.")


class HostNames:
    """Refuses requests that were sent to another name than the server's.

    A page can point its own name at the visitor's machine after it was loaded (DNS rebinding): a server there is then
    the page's own site to the browser, which lets the page read every answer. Only the name in the request gives that
    away. So a server that only its own machine can reach and that asks for no token answers to the machine's names.

    Args:
        address: what the server listens on.
        allowed: further names it answers to, those of a proxy before it.
        has_token: whether clients need a token; a page does not have it.
    """

    def __init__(self, address: str, allowed: Collection[str], *, has_token: bool) -> None:
        self._is_checked = _is_loopback(address) and not has_token
        self._allowed = {name.lower() for name in allowed}

    def check(self, host: bytes | None) -> None:
        """Do nothing where the value of the ``Host`` header names this server, or there is none.

        Raises:
            ForbiddenError: it is another name.
        """
        if not self._is_checked or host is None:
            return
        name = _without_port(host.decode("latin-1")).lower()
        if not (_is_loopback(name) or name in self._allowed):
            raise ForbiddenError(
                f"this server does not answer to the name {name!r}, only to localhost; start it with --allow-host "
                f"{name} if a proxy passes that name on."
            )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_loopback(name: str) -> bool:
    if name.lower() == "localhost" or name.lower().endswith(".localhost"):  # RFC 6761: always this machine
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
