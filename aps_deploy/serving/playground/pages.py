"""The files of the page, read once at start: nothing that a client sends is ever made into a path.

They hold nothing secret and are sent without a token; what the page asks the server for needs the token like any other
request.
"""

from __future__ import annotations

import json
from pathlib import Path

from aps_deploy.packaged import packaged_images
from aps_deploy.serving.errors import NotFoundError
from aps_deploy.serving.http_messages import Request, Response

ROUTE = r"(?P<path>/(?:playground/.*)?)"
"""Pattern of the paths that are the page's."""

SAMPLES = (
    *("truck/0856", "dog/0768", "deer/0085", "cat/0751", "bird/0045", "horse/0366", "airplane/0147"),
    *("automobile/0088", "frog/0005", "ship/0029"),
)
"""Packaged pictures that the page offers, which both packaged networks get right where they stand. On the first seven
the strided network's answer changes with the shift, as on 45 of the 256; the others are the first of their classes."""

NUM_WAVERING = 7
"""How many of the samples are there because the strided network wavers on them."""

_STATIC = Path(__file__).resolve().parent / "static"
_CONTENT_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".jpg": b"image/jpeg",
}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""Content-Security-Policy: no script, style, picture or connection but this server's own, and nobody's frame."""

_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),  # after an update of the server an old script would meet a new page
)


class Pages:
    """The page's files, by path."""

    def __init__(self) -> None:
        self._files = _static_files() | _samples()

    async def answer(self, request: Request, path: str) -> Response:
        """Return a file.

        Raises:
            NotFoundError: the page has none of that path.
        """
        found = self._files.get(path)
        if found is None:
            raise NotFoundError(f"the page has no file {path}.")
        body, content_type = found
        return Response(body, content_type=content_type, headers=list(_HEADERS))


def _static_files() -> dict[str, tuple[bytes, bytes]]:
    files = {
        f"/playground/{path.name}": (path.read_bytes(), _CONTENT_TYPES[path.suffix])
        for path in _STATIC.iterdir()
        if path.suffix in _CONTENT_TYPES
    }
    return {"/": files.pop("/playground/index.html"), **files}


def _samples() -> dict[str, tuple[bytes, bytes]]:
    folder = packaged_images()["cifar10"]
    pictures = {name: folder / f"{name}.jpg" for name in SAMPLES}
    listed = [
        {"address": f"playground/samples/{name}.jpg", "title": name.partition("/")[0], "wavers": place < NUM_WAVERING}
        for place, name in enumerate(SAMPLES)
    ]
    return {
        "/playground/samples.json": (json.dumps({"samples": listed}).encode(), b"application/json"),
        **{f"/playground/samples/{name}.jpg": (path.read_bytes(), b"image/jpeg") for name, path in pictures.items()},
    }
