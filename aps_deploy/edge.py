"""The edge of every command: which errors become one sentence and an exit code, and how warnings and logs look.

0 done, 1 a gate or an operation failed, 2 wrong usage or unreadable input. Needs nothing but the standard library, so
that a command need not wait for Typer to fail well.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from typing import NamedTuple, TextIO

from aps_deploy.errors import ApsError, InputError, TiedSelectionWarning

_LOGGER = logging.getLogger(__name__)

# What PyTorch says where numpy raises a MemoryError.
_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"


class Ending(NamedTuple):
    """How a command ends that failed: the line on stderr and the exit code."""

    line: str
    exit_code: int


def ending(error: BaseException) -> Ending | None:
    """Return how a command ends that raised this error; None where it is a bug, or Typer's own.

    Args:
        error: an error of this package, one of the system that names a file, no memory left, or the user's
            interruption.
    """
    if isinstance(error, ApsError):
        _LOGGER.debug("where the error came from:", exc_info=error)
        return Ending(f"Error: {error}", error.exit_code)
    # A file that may not be opened, a disk that breaks: no bug, if a file is named.
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        _LOGGER.debug("where the error came from:", exc_info=error)
        code = (InputError if _is_unreadable(error) else ApsError).exit_code
        return Ending(f"Error: cannot open {error.filename}: {error.strerror}; check the path.", code)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY in str(error)):
        _LOGGER.debug("where the error came from:", exc_info=error)
        reason = str(error).rpartition(f"{_NO_MEMORY}: ")[2].splitlines()
        said = f" ({reason[0].rstrip('.')})" if reason else ""
        return Ending(f"Error: there is not enough memory{said}; give fewer or smaller images at once.", 1)
    if isinstance(error, KeyboardInterrupt):
        return Ending("Interrupted.", 130)
    return None


def _is_unreadable(error: OSError) -> bool:
    """Tell an input that cannot be read from an output that cannot be written, most of which have errors of ours."""
    if error.errno in (errno.EACCES, errno.EPERM):
        # What is not there, in a folder that may be looked into, was to be written.
        path = os.fspath(error.filename)
        return os.path.lexists(path) or not os.access(os.path.dirname(path) or ".", os.X_OK)
    return error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG)


def prepare_messages(verbose: int) -> None:
    """Send the messages of this package to stderr, as many as the count of ``--verbose`` asks for."""
    warnings.showwarning = _show_warning
    logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("aps_deploy").setLevel([logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)])


_show_other_warning = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning of this package as a sentence, without the line of code that gave it."""
    if issubclass(category, TiedSelectionWarning):
        print(f"Warning: {message}", file=sys.stderr, flush=True)
    else:
        _show_other_warning(message, category, filename, lineno, file, line)
