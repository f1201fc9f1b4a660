"""The first bytes of a plan: which toolkit made it, in which version, and how long it should be.

Both toolkits begin a plan with a tag of four bytes and keep four numbers of their version at byte 24. For TensorRT that
is where ``trtexec --getPlanVersionOnly`` reads them (serialisation version 0); for TensorRT for RTX it was found in
plans of 1.7, which also state their length in bytes, at byte 16. Nothing is loaded for it, so a plan of another version
is told from a damaged one on any machine.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from aps_deploy.errors import InputError
from aps_deploy.runtimes.tensorrt.toolkit import EngineKind

_TAGS: dict[bytes, EngineKind] = {b"ftrt": "trt", b"vtrt": "trt-rtx"}
_LENGTH = slice(16, 24)
_VERSION = slice(24, 28)
HEADER_BYTES = 28


@dataclasses.dataclass(frozen=True)
class PlanHeader:
    """What the first bytes of a plan say.

    Attributes:
        kind: the toolkit that made it.
        version: of that toolkit, such as ``1.7.1.116``.
    """

    kind: EngineKind
    version: str


def read_plan_header(path: str | os.PathLike[str]) -> PlanHeader:
    """Return what the first bytes of a plan say, after comparing its length with the stated one where one is.

    Raises:
        InputError: the file is missing, no plan, or shorter or longer than it says.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{path} does not exist; give the path of an engine made by aps-deploy export --engine.")
    with file.open("rb") as stream:
        start = stream.read(HEADER_BYTES)
    kind = _TAGS.get(start[:4])
    if kind is None or len(start) < HEADER_BYTES:
        raise InputError(
            f"{path} is damaged or no TensorRT engine: it begins with {start[:4]!r}, and a plan with "
            f"{' or '.join(map(repr, _TAGS))}; export it again."
        )
    length, stated = file.stat().st_size, int.from_bytes(start[_LENGTH], "little")
    if kind == "trt-rtx" and length != stated:
        raise InputError(f"{path} is damaged: it has {length} bytes and says that it has {stated}; export it again.")
    return PlanHeader(kind, ".".join(map(str, start[_VERSION])))
