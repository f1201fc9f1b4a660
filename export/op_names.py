"""The names of the custom operators: everything a body depends on is in the operator's name.

TensorRT's ONNX parser finds a model-local function by its operator type alone, so two functions of one type in one
file would silently share the first body. The criterion, the selection mode and the stride are therefore spelled in
the type: ``PolyphaseIndex_L2``, ``PolyphaseSelect_L1Min_Float``, ``PolyphaseTake_S3``. What is not spelled is the
default: exact selection, stride 2, 64-bit whole numbers. ``_I32`` (takes, pooling) and ``_B10`` (choices; the number is
the bits of a limb, see `limbs`) are of 32-bit ones. ``Blurred`` in the place of ``Polyphase`` is the same of the map
blurred by a second input, the filters K (C, 1, f, f): ``BlurredSelect_L2``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DOMAIN = "aps"
DOMAIN_VERSION = 1
EXACT_MEAN_OP = "ExactMean"
LIMB_BITS = (15, 10, 8, 6)
"""Bits of a limb that are written, see `limbs`."""

_CRITERION_SPELLINGS = {
    "l2": "L2",
    "l1": "L1",
    "linf": "Linf",
    "max": "Max",
    "l2_min": "L2Min",
    "l1_min": "L1Min",
}
_CRITERIA_BY_SPELLING = {spelling: criterion for criterion, spelling in _CRITERION_SPELLINGS.items()}
_PLAIN, _BLURRED, _NARROW = "Polyphase", "Blurred", "_I32"
_CHOOSING_PATTERN = re.compile(
    r"(?:Polyphase|Blurred)(?:Index|Select)_([A-Za-z0-9]+?)(_Float)?(?:_S(\d+))?(?:_B(\d+))?"
)
_TAKE_PATTERN = re.compile(r"(?:Polyphase|Blurred)Take(?:_S(\d+))?(_I32)?")


@dataclass(frozen=True)
class Choice:
    """What one selection compares, and over how many components.

    Attributes:
        criterion: One of `aps_deploy.polyphase.CRITERIA`.
        selection: ``exact`` or ``float``.
        stride: Components per axis, at least 2.
        limb_bits: Bits of a limb where sums and index are of 32 bits; None where they are of 64.
    """

    criterion: str = "l2"
    selection: str = "exact"
    stride: int = 2
    limb_bits: int | None = None

    def __post_init__(self) -> None:
        if self.criterion not in _CRITERION_SPELLINGS:
            raise ValueError(f"unknown criterion {self.criterion!r}; known: {', '.join(_CRITERION_SPELLINGS)}")
        if self.selection not in ("exact", "float"):
            raise ValueError(f"unknown selection {self.selection!r}; known: exact, float")
        if self.stride < 2:
            raise ValueError(f"stride {self.stride} is not at least 2")
        if self.limb_bits is not None and self.limb_bits not in LIMB_BITS:
            raise ValueError(f"limbs of {self.limb_bits} bits; known: {', '.join(map(str, LIMB_BITS))}")

    @property
    def has_sums(self) -> bool:
        """Whether whole numbers are added up; maxima and float norms are compared as floats."""
        return self.selection == "exact" and self.criterion not in ("linf", "max")

    @property
    def suffix(self) -> str:
        """The part of the operator type after ``PolyphaseIndex_`` and ``PolyphaseSelect_``."""
        mode = "" if self.selection == "exact" else "_Float"
        limbs = "" if self.limb_bits is None else f"_B{self.limb_bits}"
        return _CRITERION_SPELLINGS[self.criterion] + mode + _stride_suffix(self.stride) + limbs


def index_op(choice: Choice) -> str:
    """Return the type of the operator ``(X) -> I``."""
    return f"PolyphaseIndex_{choice.suffix}"


def select_op(choice: Choice) -> str:
    """Return the type of the operator ``(X) -> (Y, I)``."""
    return f"PolyphaseSelect_{choice.suffix}"


def take_op(stride: int, *, narrow: bool = False) -> str:
    """Return the type of the operator ``(X, I) -> Y``; with ``narrow`` its I is int32."""
    return f"PolyphaseTake{_stride_suffix(stride)}{_NARROW if narrow else ''}"


def choice_of(op_type: str) -> Choice | None:
    """Return what an index or select operator compares, or None for any other operator."""
    match = _CHOOSING_PATTERN.fullmatch(op_type)
    if match is None or match[1] not in _CRITERIA_BY_SPELLING:
        return None
    selection = "float" if match[2] else "exact"
    limb_bits = None if match[4] is None else int(match[4])
    return Choice(_CRITERIA_BY_SPELLING[match[1]], selection, int(match[3] or 2), limb_bits)


def take_stride_of(op_type: str) -> int | None:
    """Return the stride of a take operator, or None for any other operator."""
    match = _TAKE_PATTERN.fullmatch(op_type)
    return None if match is None else int(match[1] or 2)


def is_narrow(op_type: str) -> bool:
    """Return whether a take or pooling operator works with 32-bit whole numbers."""
    return op_type.endswith(_NARROW)


def blurred_op(op_type: str) -> str:
    """Return the operator that does what ``op_type`` does, to the map blurred by the filters it takes as well."""
    return _BLURRED + op_type.removeprefix(_PLAIN)


def is_blurred(op_type: str) -> bool:
    """Return whether an operator of the domain takes filters."""
    return op_type.startswith(_BLURRED)


def is_choosing_only(op_type: str) -> bool:
    """Return whether an operator of the domain gives an index and nothing else."""
    return op_type.startswith((f"{_PLAIN}Index_", f"{_BLURRED}Index_"))


def exact_mean_op(size: tuple[int, int] | None, *, narrow: bool = False) -> str:
    """Return the type of the pooling operator for maps of one (H, W), whose body divides by a constant, or of any."""
    name = EXACT_MEAN_OP if size is None else f"{EXACT_MEAN_OP}_{size[0]}x{size[1]}"
    return name + (_NARROW if narrow else "")


def exact_mean_size(op_type: str) -> tuple[int, int] | None:
    """Return the (H, W) in the type of a pooling operator; None where it takes any."""
    _, _, size = op_type.removesuffix(_NARROW).partition("_")
    height, _, width = size.partition("x")
    return (int(height), int(width)) if size else None


def _stride_suffix(stride: int) -> str:
    return "" if stride == 2 else f"_S{stride}"
