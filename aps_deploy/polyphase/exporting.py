"""Whether the model is being turned into a file: the one switch that layers consult.

A context manager and not a flag through five constructors: what a layer computes while exporting is a property of
the moment, not of the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_exporting: ContextVar[bool] = ContextVar("aps_deploy_exporting", default=False)


def is_exporting() -> bool:
    """Return whether the caller runs inside :func:`exporting`."""
    return _exporting.get()


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Within this block, layers trace the form meant for files (the classifier head is a float32 product)."""
    token = _exporting.set(True)
    try:
        yield
    finally:
        _exporting.reset(token)
