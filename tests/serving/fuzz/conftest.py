"""One watched server for all fuzzing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.fuzz.watching import Watched, watched


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(repository, tmp_path_factory.mktemp("watched")) as server:
        yield server
