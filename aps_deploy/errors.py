"""The errors a user can cause, each one plain sentence.

Library code raises these; only the command line turns them into an exit code (0 done, 1 a gate or an operation
failed, 2 wrong usage or unreadable input). A message says what was wrong, the value seen, what is accepted and,
where there is one, the next command.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

NameT = TypeVar("NameT", bound=str)


class ApsError(Exception):
    """An operation failed for a reason the user can read and act on."""

    exit_code: int = 1


class InputError(ApsError):
    """Wrong usage, or an input that cannot be read or does not fit."""

    exit_code = 2


class TiedSelectionWarning(UserWarning):
    """A network's options make its selections tie in every image; the command line prints it in one sentence."""


def near_matches(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return `` (did you mean a, b?)`` for the known names closest to ``name``, or an empty string."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=limit, cutoff=0.5)
    return f" (did you mean {', '.join(close)}?)" if close else ""


def known_name(name: str, accepted: Sequence[NameT], what: str) -> NameT:
    """Return ``name`` as the member of ``accepted`` it equals.

    Raises:
        InputError: it equals none; the message says ``what`` it was meant to be, and offers near matches.
    """
    for candidate in accepted:
        if name == candidate:
            return candidate
    raise InputError(f"unknown {what} {name!r}{near_matches(name, accepted)}; choose one of {', '.join(accepted)}.")
