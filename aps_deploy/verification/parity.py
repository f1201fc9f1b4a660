"""Does the file compute the reference's logits? Selection-aware: the reference was run with the file's own indices.

Without that, one near-tie that falls the other way would hide, or excuse, every other difference.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.verification.comparing import Logits, finite_or_none, tolerance_excess


@dataclasses.dataclass(frozen=True)
class Parity:
    """Difference of two sets of logits, file against reference.

    Attributes:
        num_images: rows compared.
        non_finite: rows with a NaN or an infinity on either side; every error is infinite then.
        max_abs: largest absolute difference.
        max_rel: largest absolute difference relative to the reference's logit, where that is not 0.
        mean_abs: mean absolute difference.
        cosine: smallest cosine of a file's row with the reference's row.
        worst_excess: largest |difference| / (atol + rtol |reference|); at most 1 where every logit is within.
        worst_image: position of the row with the largest excess.
        top1_percent: rows with the same predicted class, in percent.
        top5_percent: rows with the same set of the five largest classes (all, if there are fewer), in percent.
        clear_disagreements: rows whose predicted class differs although the reference's two best logits lie further
            apart than twice the tolerance.
        file_accuracy_percent: accuracy of the file; None without labels.
        reference_accuracy_percent: accuracy of the reference; None without labels.
    """

    num_images: int
    non_finite: int
    max_abs: float
    max_rel: float
    mean_abs: float
    cosine: float
    worst_excess: float
    worst_image: int
    top1_percent: float
    top5_percent: float
    clear_disagreements: int
    file_accuracy_percent: float | None = None
    reference_accuracy_percent: float | None = None

    @property
    def accuracy_drop_points(self) -> float | None:
        """Accuracy lost against the reference, in percentage points; None without labels."""
        if self.file_accuracy_percent is None or self.reference_accuracy_percent is None:
            return None
        return self.reference_accuracy_percent - self.file_accuracy_percent

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values; what is not finite becomes None."""
        document = {name: _plain(value) for name, value in dataclasses.asdict(self).items()}
        return {**document, "accuracy_drop_points": self.accuracy_drop_points}


def compare_logits(logits: Logits, reference: Logits, *, atol: float, rtol: float) -> Parity:
    """Return the difference of ``logits`` (N, classes) from ``reference`` (N, classes), N at least 1.

    Raises:
        ValueError: the shapes differ, or there is no image.
    """
    if logits.shape != reference.shape or len(logits) == 0:
        raise ValueError(f"logits of shape {logits.shape} cannot be compared with {reference.shape}")
    ours, theirs = logits.astype(np.float64), reference.astype(np.float64)
    finite = np.asarray(np.isfinite(ours).all(axis=1) & np.isfinite(theirs).all(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.where(finite[:, None], np.abs(ours - theirs), np.inf)
        bound = np.where(finite[:, None], atol + rtol * np.abs(theirs), 1.0)
        relative = np.where(theirs != 0, difference / np.abs(theirs), 0.0)
    relative[~finite] = np.inf
    excess = tolerance_excess(ours, theirs, atol, rtol)
    same_class = ours.argmax(axis=1) == theirs.argmax(axis=1)
    clear = _best_gap(theirs) > 2 * bound.max(axis=1)
    return Parity(
        num_images=len(logits),
        non_finite=int((~finite).sum()),
        max_abs=float(difference.max()),
        max_rel=float(relative.max()),
        mean_abs=float(difference.mean()),
        cosine=_smallest_cosine(ours, theirs) if finite.all() else float("nan"),
        worst_excess=float(excess.max()),
        worst_image=int(excess.max(axis=1).argmax()),
        top1_percent=100 * float((same_class & finite).mean()),
        top5_percent=100 * float((_same_top(ours, theirs, 5) & finite).mean()),
        clear_disagreements=int((finite & ~same_class & clear).sum()),
    )


def _smallest_cosine(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> float:
    product = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    inner = (ours * theirs).sum(axis=1)
    # Two zero rows point the same way; one zero row points nowhere.
    both_zero = ~ours.any(axis=1) & ~theirs.any(axis=1)
    cosine = np.where(product > 0, inner / np.where(product > 0, product, 1.0), both_zero.astype(float))
    return float(cosine.min())


def _best_gap(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if logits.shape[1] < 2:
        return np.full(len(logits), np.inf)
    ranked = np.sort(logits, axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(ranked[:, -1] - ranked[:, -2])


def _same_top(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.bool_]:
    count = min(count, ours.shape[1])
    best = [np.sort(np.argsort(-logits, axis=1, kind="stable")[:, :count], axis=1) for logits in (ours, theirs)]
    return np.asarray((best[0] == best[1]).all(axis=1))


def percent_right(logits: Logits, labels: npt.NDArray[np.int64] | None) -> float | None:
    """Return the share of logits (N, classes) whose largest is that of the label (N,), in percent; None without."""
    return None if labels is None else 100 * float((logits.argmax(axis=1) == labels).mean())


def _plain(value: Any) -> Any:
    return finite_or_none(value) if isinstance(value, float) else value
