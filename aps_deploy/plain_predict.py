"""A command line of `predict` that can be read without Typer, which takes as long to load as half an ONNX Runtime.

Only lines of one meaning are read here: `predict MODEL IMAGE...` and its options, spelled out or by their short name,
each value a word of its own. All others (`--help`, `--top-k=3`, a mistake) are Typer's, which then says what is wrong;
the tests compare the two on lines of both kinds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COUNTS = {"--top-k": "top_k", "-k": "top_k", "--batch-size": "batch_size", "-b": "batch_size"}
_WORDS = {"--preprocessing": "preprocessing", "--runtime": "runtime", "--device": "device"}
_FLAG = "--json"

# Some of what else is a number (1_0, blanks around it) Typer takes too, and some it refuses.
_COUNT = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


def parse_plainly(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Return the keyword arguments of `aps_deploy.predict.predict`, and ``as_json``, that a command line gives.

    Args:
        arguments: the words behind the program's name.

    Returns:
        Only what the line says, with ``model`` and ``images``; None where Typer must read it.
    """
    if list(arguments[:1]) != ["predict"]:
        return None
    found: dict[str, Any] = {"as_json": False}
    positional: list[str] = []
    words = iter(arguments[1:])
    for word in words:
        if word == _FLAG:
            found["as_json"] = True
        elif word in _COUNTS or word in _WORDS:
            value = next(words, "")
            if not _is_plain(value) or (word in _COUNTS and not _COUNT.fullmatch(value)):
                return None
            found.update({_COUNTS[word]: int(value)} if word in _COUNTS else {_WORDS[word]: value})
        elif _is_plain(word):
            positional.append(word)
        else:
            return None
    if len(positional) < 2:
        return None
    return {**found, "model": positional[0], "images": [Path(image) for image in positional[1:]]}


def _is_plain(word: str) -> bool:
    return word != "" and not word.startswith("-")
