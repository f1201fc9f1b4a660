"""The operators that plugins compute: one kernel each, and everything that kernel depends on is in the name.

``PolyphaseEnergy_L2`` X (N, C, H, W) -> E (N, H, W), M (N, B): sums of squares over channels, and their maxima
``PolyphaseScore``     E, M -> S (N, P, s*s) int64: sums of the quantised energies over each component
``PolyphaseBest``      X, S -> Y (N, C, H/s, W/s), I (N,) int64: the component of the largest score, and its number
``PolyphaseLeast``     X, S -> Y, I: that of the smallest

B blocks of pixels have a maximum each, and P blocks of threads add a part of each score; whoever takes them takes the
largest of all and the sum of all, so B and P are the business of the kernels.

A plugin compiled ahead of time holds one kernel and no scratch memory, so a selection is three. One kernel with a
block of threads for each image would be one, but an image would then be read by one multiprocessor of the GPU's
hundred; `docs/plugin.md` has the reckoning. What is not spelled is stride 2; ``_S3`` is stride 3.

TensorRT finds a plugin by the operator's type, the namespace and the version, of which only the first can differ here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

NAMESPACE = "aps"
VERSION = "1"

Kind = Literal["energy", "score", "select"]

SMALLEST_STRIDE, LARGEST_STRIDE = 2, 4
_POWERS = {"L1": 1, "L2": 2}
_PATTERN = re.compile(r"Polyphase(?:Energy_(L[12])|(Score)|(Best|Least))(?:_S(\d))?")


@dataclass(frozen=True)
class PluginOperator:
    """One operator that a plugin computes.

    Attributes:
        kind: which of the three kernels.
        stride: components per axis; of ``energy`` always 2, because it depends on none.
        power: of ``energy``, 2 for sums of squares and 1 for sums of magnitudes; else 0.
        smallest: of ``select``, whether the smallest score is kept.
    """

    kind: Kind
    stride: int = 2
    power: int = 0
    smallest: bool = False

    @property
    def op_type(self) -> str:
        """The operator's type in an ONNX file, and the plugin's name."""
        if self.kind == "energy":
            return f"PolyphaseEnergy_L{self.power}"
        verb = "Score" if self.kind == "score" else "Least" if self.smallest else "Best"
        return f"Polyphase{verb}{'' if self.stride == SMALLEST_STRIDE else f'_S{self.stride}'}"

    @property
    def num_inputs(self) -> int:
        """How many tensors it takes."""
        return 1 if self.kind == "energy" else 2

    @property
    def num_outputs(self) -> int:
        """How many tensors it gives."""
        return 1 if self.kind == "score" else 2


def operator_of(op_type: str) -> PluginOperator | None:
    """Return the operator of a type, or None for any type that no plugin computes."""
    match = _PATTERN.fullmatch(op_type)
    if match is None:
        return None
    stride = int(match[4] or SMALLEST_STRIDE)
    if not SMALLEST_STRIDE <= stride <= LARGEST_STRIDE:
        return None
    if match[1]:
        found = PluginOperator("energy", power=_POWERS[match[1]])
    elif match[2]:
        found = PluginOperator("score", stride)
    else:
        found = PluginOperator("select", stride, smallest=match[3] == "Least")
    return found if found.op_type == op_type else None


def operators_of(criterion: str, stride: int) -> tuple[PluginOperator, PluginOperator, PluginOperator] | None:
    """Return the three operators of an exact selection; None where there are no kernels for it.

    Args:
        criterion: one of `aps_deploy.polyphase.CRITERIA`; those compared by sums have kernels.
        stride: components per axis.
    """
    if criterion[:2] not in ("l1", "l2") or not SMALLEST_STRIDE <= stride <= LARGEST_STRIDE:
        return None
    return (
        PluginOperator("energy", power=int(criterion[1])),
        PluginOperator("score", stride),
        PluginOperator("select", stride, smallest=criterion.endswith("_min")),
    )
