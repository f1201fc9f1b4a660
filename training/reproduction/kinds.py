"""What a declared table may hold where: entries and the kinds of their values, given as type annotations.

Imports no torch.
"""

from __future__ import annotations

import reprlib
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from aps_deploy.errors import InputError, near_matches

_WORDS: Mapping[Any, str] = {
    str: "a string",
    Path: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list[str]: "a list of strings",
    list[int]: "a list of whole numbers",
    list[dict[str, Any]]: "a list of tables",
}


def check_entries(
    found: Mapping[str, Any], kinds: Mapping[str, Any], path: Path, where: str, needed: Collection[str] = ()
) -> None:
    """Refuse entries that are unknown, missing or of another kind.

    Args:
        found: A table of the file.
        kinds: Type annotation of every known entry; None in it is what TOML says by leaving the entry out.
        path: The file, for the message.
        where: What of it `found` is, for the message.
        needed: Entries that must be there.

    Raises:
        InputError: naming the file and the entry.
    """
    for key, value in found.items():
        if key not in kinds:
            raise InputError(
                f"{path}: {where} has an unknown entry {key!r}{near_matches(key, kinds)}; known are {', '.join(kinds)}."
            )
        if not _fits(value, kinds[key]):
            raise InputError(f"{path}: {key} of {where} is {reprlib.repr(value)}; it must be {_described(kinds[key])}.")
    for key in needed:
        if key not in found:
            raise InputError(f"{path}: {where} has no {key}; give it {_described(kinds[key])}.")


def _fits(value: Any, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is list:
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, str if kind is Path else origin or kind)


def _described(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_described(part) for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return _WORDS[kind]
