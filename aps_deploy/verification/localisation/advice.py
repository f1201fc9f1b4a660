"""Which layers of a lower precision should stay in float32 for a file to pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from aps_deploy.verification.certificate import Check


@dataclasses.dataclass(frozen=True)
class LayerError:
    """The error of one layer.

    Attributes:
        layer: name of its node.
        module: path of the reference's module.
        precision: what it computes in.
        own_error: what the layer itself adds, see `locating`; None where it is no number.
        accumulated_error: that of the maps as they came to be.
        is_beyond: whether its own error exceeds its share.
    """

    layer: str
    module: str
    precision: str
    own_error: float | None
    accumulated_error: float | None
    is_beyond: bool

    @property
    def is_narrow(self) -> bool:
        """Whether it computes in less than float32."""
        return self.precision not in ("fp32", "fp64")


def shrink_factor(checks: Iterable[Check]) -> float:
    """Return what the logits' error must be multiplied by for the failed gates of parity to pass.

    Infinite where none of them tells. `parity_excess` and `parity_mean_abs` grow as the error does, and
    ``1 - parity_cosine`` as its square.
    """
    factors = [math.inf]
    for check in checks:
        if check.status != "failed" or check.measured is None or check.tolerance is None:
            continue
        if check.name in ("parity_excess", "parity_mean_abs"):
            factors.append(check.tolerance / check.measured)
        elif check.name == "parity_cosine":
            factors.append(math.sqrt(max(0.0, 1 - check.tolerance) / (1 - check.measured)))
    return min(factors)


def advised(errors: Sequence[LayerError], limit: float, shrink: float = math.inf) -> tuple[str, ...]:
    """Return the layers of lower precision to keep in float32, worst first; none where it would not help.

    The squares of the own errors are taken for parts of the square of the logits' error. Layers are kept until what is
    left is half of the square of what passes; where the logits themselves are within that, those beyond their share.

    Args:
        errors: of all layers, in order; the last one makes the logits.
        limit: relative error that the logits may have.
        shrink: what their error must be multiplied by, see `shrink_factor`.
    """
    narrow = [error for error in errors if error.is_narrow]
    reached = errors[-1].accumulated_error if errors else None
    if not narrow or not reached or any(error.own_error is None for error in narrow):
        return ()
    squares = {error.layer: (error.own_error or 0.0) ** 2 for error in narrow}
    total = sum(squares.values())
    if total == 0:
        return ()
    worst_first = sorted(squares, key=lambda name: -squares[name])
    passing = min(limit, shrink * reached) ** 2 / 2
    if reached**2 <= passing:
        beyond = {error.layer for error in narrow if error.is_beyond}
        return tuple(name for name in worst_first if name in beyond)
    kept: list[str] = []
    left = reached**2
    for name in worst_first:
        if left <= passing:
            break
        kept.append(name)
        left -= reached**2 * squares[name] / total
    return tuple(kept)
