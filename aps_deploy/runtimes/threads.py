"""How many threads a run may have: as many as any machine has processors."""

from __future__ import annotations

from aps_deploy.errors import InputError

MAX_THREADS = 4096


def check_threads(num_threads: int | None) -> None:
    """Do nothing where a number of threads can be; None leaves the runtime's choice.

    Raises:
        InputError: it cannot.
    """
    if num_threads is not None and not 1 <= num_threads <= MAX_THREADS:
        raise InputError(f"the number of threads is {num_threads}; accepted: 1 to {MAX_THREADS}.")
