"""What every test leaves as it found it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    if not pluginmanager.hasplugin("timeout"):
        # pyproject.toml sets it, and a key that no plugin declares is an error.
        parser.addini("timeout", "seconds of a test; nothing without pytest-timeout, which is not installed")


@pytest.fixture(autouse=True)
def no_handler_left() -> Iterator[None]:
    """A command logs to the standard error of its own test, which is closed when the next test logs."""
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)


@pytest.fixture(autouse=True, scope="session")
def no_kernels_kept() -> Iterator[None]:
    """Nothing is written into the cache folder of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APS_DEPLOY_RUNTIME_CACHE", "0")
        yield
