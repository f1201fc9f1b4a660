"""The errors a user can cause, each one plain sentence.

Library code raises these; only the command line turns them into an exit code (0 done, 1 a gate or an operation
failed, 2 wrong usage or unreadable input). A message says what was wrong, the value seen, what is accepted and,
where there is one, the next command.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ApsError(Exception):
    """An operation failed for a reason the user can read and act on."""

    exit_code: int = 1


class InputError(ApsError):
    """Wrong usage, or an input that cannot be read or does not fit."""

    exit_code = 2


def near_matches(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return `` (did you mean a, b?)`` for the known names closest to ``name``, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5)
    return f" (did you mean {', '.join(close)}?)" if close else ""
