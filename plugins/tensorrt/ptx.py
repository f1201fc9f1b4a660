"""What a kernel's PTX text says of itself, read independently of whoever compiled it.

TensorRT hands a kernel its inputs, then integers, then its outputs, and nothing else. A launch that leaves out
parameters reads whatever lies behind its list, so a text whose list is longer than the plugin's is refused: Triton
appends pointers to scratch memory to every kernel (`plugins.triton.ahead_of_time` takes out those that nothing reads).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aps_deploy.errors import ApsError

_ENTRY = re.compile(r"\.visible\s+\.entry\s+(?P<name>[\w$]+)\s*\((?P<parameters>[^)]*)\)(?P<limits>[^{]*)\{")
_TYPE = re.compile(r"\.param\s+\.([a-z]\d+)\b")
_THREADS = re.compile(r"\.reqntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?")
_TARGET = re.compile(r"^\s*\.target\s+(\w+)", re.MULTILINE)
_VERSION = re.compile(r"^\s*\.version\s+(\d+)\.(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class EntryPoint:
    """A kernel in a PTX text.

    Attributes:
        name: the kernel's.
        parameters: their types in order, ``u64`` for an address and ``u32`` for an integer.
        num_threads: threads of a block that the text demands; None where it leaves them to the launch.
        target: the architecture, such as ``sm_90a``.
        version: of the language, 90 for 9.0: drivers read up to one.
    """

    name: str
    parameters: tuple[str, ...]
    num_threads: int | None
    target: str
    version: int


def entry_point(ptx: str) -> EntryPoint:
    """Return the one kernel of a PTX text.

    Raises:
        ApsError: the text holds no kernel, several, or names no architecture or version.
    """
    found, target, version = list(_ENTRY.finditer(ptx)), _TARGET.search(ptx), _VERSION.search(ptx)
    if len(found) != 1 or target is None or version is None:
        names = ", ".join(match["name"] for match in found) or "none"
        raise ApsError(f"the code of a plugin must hold one kernel for one architecture, and this holds {names}.")
    (match,) = found
    parameters = tuple(str(kind) for kind in _TYPE.findall(match["parameters"]))
    limit = _THREADS.search(match["limits"])
    num_threads = None if limit is None else int(limit[1]) * int(limit[2] or 1) * int(limit[3] or 1)
    return EntryPoint(match["name"], parameters, num_threads, target[1], 10 * int(version[1]) + int(version[2]))


def check_entry(ptx: str, *, name: str, parameters: Sequence[str], num_threads: int) -> EntryPoint:
    """Return the kernel of a PTX text, which is the one that a plugin launches so.

    Raises:
        ApsError: it has another name, takes other parameters, or demands another number of threads.
    """
    entry = entry_point(ptx)
    if entry.name != name or entry.parameters != tuple(parameters):
        raise ApsError(
            f"the kernel {entry.name} takes ({', '.join(entry.parameters)}), and TensorRT would hand {name} "
            f"({', '.join(parameters)}); install the version of Triton in constraints.txt."
        )
    if entry.num_threads not in (None, num_threads):
        raise ApsError(f"the kernel {name} demands blocks of {entry.num_threads} threads, not of {num_threads}.")
    return entry


def renamed(ptx: str, name: str) -> str:
    """Return a PTX text whose one kernel has another name; its parameters keep theirs."""
    return _ENTRY.sub(lambda match: match[0].replace(f"{match['name']}(", f"{name}(", 1), ptx, count=1)
