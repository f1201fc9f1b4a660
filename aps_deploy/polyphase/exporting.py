"""Whether the model is being turned into a file: the one switch that layers consult.

A context manager and not a flag through five constructors: what a layer computes while exporting is a property of
the moment, not of the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

# A plain number, because torch.compile of PyTorch 2.11 cannot trace a ContextVar; so export and run a model in
# different processes, not in different threads at the same time.
_depth = 0


def is_exporting() -> bool:
    """Return whether the caller runs inside :func:`exporting`."""
    return _depth > 0


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Within this block, layers trace the form meant for files (the classifier head is a float32 product)."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
