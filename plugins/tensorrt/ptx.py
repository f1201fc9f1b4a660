"""What a kernel's PTX text says of itself, and the text as TensorRT must have it.

TensorRT hands a kernel its inputs, then integers, then its outputs, and nothing else. Triton appends pointers to
scratch memory to every kernel's parameters, needed or not, and a launch that leaves out parameters reads whatever lies
behind its list. So parameters that nothing in the kernel reads are taken out of the text, and a kernel that reads more
than it is given is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aps_deploy.errors import ApsError

_ENTRY = re.compile(r"\.visible\s+\.entry\s+(?P<name>[\w$]+)\s*\((?P<parameters>[^)]*)\)(?P<limits>[^{]*)\{")
_PARAMETER = re.compile(r"\.param\s+\.(?P<type>[a-z]\d+)\b.*?(?P<name>[\w$]+)\s*$", re.DOTALL)
_THREADS = re.compile(r"\.reqntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?")
_DEBUG_LINES = re.compile(r"^[ \t]*\.(?:loc|file)\b.*\n", re.MULTILINE)
_DEBUG_SECTION = re.compile(r"^[ \t]*\.section\s+\.debug_\w+\s*\{[^}]*\}[ \t]*\n?", re.MULTILINE)
_DEBUG_TARGET = re.compile(r"^(\s*\.target\s+[^\n]*?),\s*debug\b", re.MULTILINE)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel.

    Attributes:
        name: as the text has it.
        type: ``u64`` for a pointer, ``u32`` for an integer.
        is_read: whether anything in the kernel refers to it.
    """

    name: str
    type: str
    is_read: bool


@dataclass(frozen=True)
class EntryPoint:
    """A kernel in a PTX text.

    Attributes:
        name: the kernel's.
        parameters: in order.
        num_threads: threads of a block that the text demands; None where it leaves them to the launch.
    """

    name: str
    parameters: tuple[Parameter, ...]
    num_threads: int | None


def entry_point(ptx: str) -> EntryPoint:
    """Return the one kernel of a PTX text.

    Raises:
        ApsError: the text holds no kernel, several, or a parameter of an unknown form.
    """
    found = list(_ENTRY.finditer(ptx))
    if len(found) != 1:
        names = ", ".join(match["name"] for match in found) or "none"
        raise ApsError(f"compiled code of a plugin must hold one kernel, and this holds {names}.")
    (match,) = found
    body = ptx[match.end() :]
    parameters = tuple(_parameter(words, body) for words in match["parameters"].split(",") if words.strip())
    limit = _THREADS.search(match["limits"])
    threads = None
    if limit is not None:
        threads = int(limit[1]) * int(limit[2] or 1) * int(limit[3] or 1)
    return EntryPoint(match["name"], parameters, threads)


def with_parameters(ptx: str, types: Sequence[str]) -> str:
    """Return a PTX text whose kernel takes parameters of exactly these types.

    Args:
        ptx: the text; its kernel may have more pointers behind these, which it does not read.
        types: such as ``u64`` and ``u32``, in order.

    Raises:
        ApsError: the kernel takes others, or reads one that would be taken away.
    """
    entry = entry_point(ptx)
    kept, spare = entry.parameters[: len(types)], entry.parameters[len(types) :]
    seen = [parameter.type for parameter in entry.parameters]
    if [parameter.type for parameter in kept] != list(types) or any(parameter.type != "u64" for parameter in spare):
        raise ApsError(
            f"the kernel {entry.name} takes ({', '.join(seen)}), and its plugin hands over ({', '.join(types)})."
        )
    needed = [parameter.name for parameter in spare if parameter.is_read]
    if needed:
        raise ApsError(
            f"the kernel {entry.name} needs scratch memory ({', '.join(needed)}), and a TensorRT plugin compiled ahead "
            "of time has none; install the version of Triton in constraints.txt."
        )
    match = _ENTRY.search(ptx)
    assert match is not None
    start, end = match.span("parameters")
    words = [part for part in ptx[start:end].split(",") if part.strip()][: len(types)]
    return f"{ptx[:start]}{','.join(words).rstrip()}\n{ptx[end:]}"


def without_debug_information(ptx: str) -> str:
    """Return a PTX text without line numbers and names of source files, which would go into every engine."""
    return _DEBUG_TARGET.sub(r"\1", _DEBUG_SECTION.sub("", _DEBUG_LINES.sub("", ptx)))


def target_of(ptx: str) -> str:
    """Return the architecture a PTX text is for, such as ``sm_90a``; ``unknown`` where it names none."""
    match = re.search(r"^\s*\.target\s+(\w+)", ptx, re.MULTILINE)
    return "unknown" if match is None else match[1]


def _parameter(words: str, body: str) -> Parameter:
    match = _PARAMETER.search(words.strip())
    if match is None:
        raise ApsError(f"the kernel has a parameter that cannot be read: {' '.join(words.split())}.")
    is_read = re.search(rf"\b{re.escape(match['name'])}\b", body) is not None
    return Parameter(match["name"], match["type"], is_read)
