"""The block in which no kernel of the project is used, neither the CPU's nor the GPU's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

# A plain number, as in `polyphase.exporting`: torch.compile cannot trace a ContextVar.
_switched_off = 0


def are_switched_off() -> bool:
    """Return whether the caller runs inside `without_kernels`."""
    return _switched_off > 0


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """Within this block nothing uses the kernels: a reference must not share the code it is compared with."""
    global _switched_off
    _switched_off += 1
    try:
        yield
    finally:
        _switched_off -= 1
