"""One server with the networks of this folder."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.serving.playground.networks import picture, write_repository

if TYPE_CHECKING:
    from tests.serving.support import Running


@pytest.fixture(scope="package")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    from tests.serving.support import running  # only here: as in the conftest above

    with running(write_repository(tmp_path_factory.mktemp("page") / "models")) as server:
        yield server


@pytest.fixture(scope="session")
def png() -> bytes:
    stream = io.BytesIO()
    picture().save(stream, "PNG")
    return stream.getvalue()
