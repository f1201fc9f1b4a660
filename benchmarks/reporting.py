"""What the benchmarks share: how they start and fail, settings, the option that keeps a result, bars and medians."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from aps_deploy.edge import ending
from aps_deploy.errors import InputError
from aps_deploy.files import write_json

RESULTS_FOLDER = Path(__file__).with_name("results")


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a benchmark and exit with its code; what a user caused is one sentence, as in the commands of the package."""
    try:
        sys.exit(main())
    except (Exception, KeyboardInterrupt) as error:
        known = ending(error)
        if known is None:
            raise
        print(known.line, file=sys.stderr)
        sys.exit(known.exit_code)


def parse_setting(text: str, spelling: str) -> tuple[str, list[int]]:
    """Return the name and the numbers of a setting such as ``resnet18_aps3:224:8``.

    Args:
        text: what the user wrote.
        spelling: what is accepted, such as ``NAME:SIDE:BATCH``.

    Raises:
        InputError: the setting has other parts.
    """
    name, *numbers = text.split(":")
    if len(numbers) != spelling.count(":") or not all(number.isdecimal() for number in numbers):
        raise InputError(f"the setting is {text}; accepted is {spelling}, with whole numbers after the name.")
    return name, [int(number) for number in numbers]


def add_write_option(parser: argparse.ArgumentParser, results: Path) -> None:
    """Add ``--write``, with or without the name of a file: None, the kept result's path, or that file's."""
    text = f"write the result to a file [default: keep it as {results.name}]"
    parser.add_argument("--write", nargs="?", type=Path, const=results, metavar="FILE", help=text)


def add_common_options(parser: argparse.ArgumentParser, results: Path, *, rounds: int) -> None:
    """Add ``--rounds``, with its default, ``--threads`` and ``--write``."""
    parser.add_argument("--rounds", type=int, default=rounds, help="runs of each network")
    parser.add_argument("--threads", type=int, help="threads of the runtime [default: its choice]")
    add_write_option(parser, results)


def keep(results: Path, document: dict[str, Any]) -> None:
    """Write a result and print where it is."""
    results.parent.mkdir(exist_ok=True)
    write_json(results, document)
    print(results)


def judged(found: dict[str, float], *, at_most: float | None = None, at_least: float | None = None) -> dict[str, Any]:
    """Return a spread with its bar, and whether the median meets it; unchanged where there is no bar."""
    if at_most is not None:
        return {**found, "at_most": at_most, "met": found["median"] <= at_most}
    if at_least is not None:
        return {**found, "at_least": at_least, "met": found["median"] >= at_least}
    return dict(found)


def cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return the last columns of a table for a row of `judged`: median, quartiles, bar, whether it is met."""
    bar = next((f"{key.replace('_', ' ')} {row[key]}" for key in ("at_most", "at_least") if key in row), "")
    quartiles = f"{row['lower_quartile']:.3f} to {row['upper_quartile']:.3f}"
    return f"{row['median']:.3f}", quartiles, bar, {True: "met", False: "missed", None: ""}[row.get("met")]


def gpu_file_name(gpu: str, suffix: str = "") -> str:
    """Return the name of the result file of a GPU: ``nvidia-h100-80gb-hbm3.json``, a suffix before its ending."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") + f"{suffix}.json"
