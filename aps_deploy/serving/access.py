"""Who may send requests: those who carry the bearer token, and no other site's page."""

from __future__ import annotations

import hmac
import os
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
