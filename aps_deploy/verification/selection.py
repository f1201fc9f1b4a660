"""Did the file choose the components that the reference chooses? Per layer, every disagreement explained or not.

The reference is run with the file's own indices forced, so each of its selections sees the input that the file's
selection saw, and one early disagreement does not spoil the comparison of the later layers. One that cannot be forced
is compared up to the first disagreement of an image; the layers behind it are *not judged*. A disagreement is
*explained* only where the reference's relative margin is below the error measured in the file's own scores at that
layer, and never above the cap of the file's precision. Zero margins are *tied*: neither right nor wrong.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.verification.comparing import finite_or_none

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

ERROR_HEADROOM = 2.0
"""The measured error is the largest over the *agreeing* selections: a disagreeing one proves its own error by being
wrong, which would excuse everything. A sample's maximum is a little too small, hence the factor."""

MARGIN_BIN = 0.25
"""Width of a histogram's bin in decades."""


@dataclasses.dataclass(frozen=True)
class MarginHistogram:
    """How the relative margins of one layer are distributed, on a logarithmic axis.

    Attributes:
        tied: margins of exactly 0, which are in no bin.
        log10_from: lower edge of the first bin, as a decimal logarithm, a multiple of `MARGIN_BIN`.
        counts: margins in each bin; the bins are `MARGIN_BIN` wide.
    """

    tied: int
    log10_from: float
    counts: tuple[int, ...]

    @classmethod
    def of(cls, margins: Floats) -> MarginHistogram:
        """Return the histogram of margins of any shape; NaN counts as a tie, infinity as an unknown margin."""
        known = margins[~np.isposinf(margins)]
        positive = known[known > 0]
        tied = int(known.size - positive.size)
        if not positive.size:
            return cls(tied, 0.0, ())
        bins = np.floor(np.log10(positive) / MARGIN_BIN).astype(int)
        counts = np.bincount(bins - bins.min())
        return cls(tied, float(bins.min()) * MARGIN_BIN, tuple(int(count) for count in counts))

    def to_dict(self) -> dict[str, Any]:
        """Return the histogram as plain JSON values."""
        return {**dataclasses.asdict(self), "log10_step": MARGIN_BIN, "counts": list(self.counts)}


@dataclasses.dataclass(frozen=True)
class LayerSelection:
    """Agreement of one selecting layer; its first four counts and ``not_judged`` add up to ``num_images``.

    Attributes:
        layer: module path of the layer in the PyTorch model.
        agreed: images with the reference's index.
        explained: images with another index, whose margin is below ``tolerance``.
        unexplained: images with another index and a margin above it.
        tied: images whose two best components tie exactly in the reference, whatever the file chose.
        tied_in_file: images whose two best components tie exactly in the file, and in the reference lie closer
            together than ``tolerance``: low precision rounded them to one number. Counted under the other names too.
        not_judged: images on which the reference saw another map, because an earlier layer chose otherwise and it
            could not be made to choose what the file chose.
        at_risk: images that agree, but whose margin is below ``tolerance``: another kernel may choose otherwise.
        measured_error: largest error of the file's relative score gaps over agreeing images; None where the scores
            could not be measured.
        tolerance: largest margin that explains a disagreement.
        smallest_margin: smallest relative margin of the reference among untied images; None where all are tied.
        margins: histogram of the reference's relative margins, see `MarginHistogram`.
    """

    layer: str
    agreed: int
    explained: int
    unexplained: int
    tied: int
    tied_in_file: int
    not_judged: int
    at_risk: int
    measured_error: float | None
    tolerance: float
    smallest_margin: float | None
    margins: MarginHistogram

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        document = {**dataclasses.asdict(self), "margins": self.margins.to_dict()}
        document["measured_error"] = finite_or_none(self.measured_error)
        return document


@dataclasses.dataclass(frozen=True)
class SelectionAgreement:
    """Agreement of all selecting layers.

    Attributes:
        layers: one entry per selecting layer, in forward order.
        num_images: images compared.
        tied_images: (N,) True where any layer of the image ties, in the reference or in the file: no index is the
            right one then, so nothing is promised.
        margin_histogram: counts of untied margins per decade, see `margin_histogram`.
    """

    layers: tuple[LayerSelection, ...]
    num_images: int
    tied_images: npt.NDArray[np.bool_]
    margin_histogram: dict[str, int]

    def total(self, name: str) -> int:
        """Return the sum of one count (``agreed``, ``explained``, ...) over the layers."""
        return sum(int(getattr(layer, name)) for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        return {
            "num_images": self.num_images,
            "tied_images": int(self.tied_images.sum()),
            "layers": [layer.to_dict() for layer in self.layers],
            "margin_histogram": self.margin_histogram,
        }


def relative_gaps(scores: Floats, index: Indices) -> Floats:
    """Return (N, K) how far each score of ``scores`` (N, K) is from the one chosen, relative to the larger of the two.

    The chosen component's own gap is 0; a row's smallest other gap is the relative margin. Free of the scores' unit.
    """
    chosen = np.take_along_axis(scores, index[:, None], axis=1)
    magnitude = np.maximum(np.abs(scores), np.abs(chosen))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(magnitude > 0, np.abs(scores - chosen) / magnitude, 0.0)


def tied_images(margins: Floats) -> npt.NDArray[np.bool_]:
    """Return (N,) whether some selection of the image is tied, or has no margin at all, for margins (N, L)."""
    return np.asarray(~(margins > 0).all(axis=1))


def compare_selections(
    layers: tuple[str, ...],
    file_indices: Indices,
    choice: Indices,
    reference_scores: Floats,
    margins: Floats,
    *,
    file_scores: tuple[Floats, ...] | None,
    cap: float,
    judged: npt.NDArray[np.bool_] | None = None,
) -> SelectionAgreement:
    """Return the agreement of ``file_indices`` (N, L) with a reference that saw the same maps.

    Args:
        layers: names of the L layers.
        file_indices: int64 (N, L), what the file chose.
        choice: int64 (N, L), what the reference would have chosen on the same maps.
        reference_scores: (N, L, K), any unit; the reference's scores of each component.
        margins: (N, L), the reference's relative margins.
        file_scores: per layer (N, K), the file's own scores; None where they cannot be read, and then nothing
            explains a disagreement.
        cap: largest tolerance, whatever the measured error.
        judged: (N, L) False where the reference's layer saw another map; None where it was run with the file's
            indices forced, so that all of them saw the same.
    """
    results = []
    comparable = np.ones(file_indices.shape, bool) if judged is None else judged
    any_tied = tied_images(np.where(comparable, margins, np.inf))
    for column, layer in enumerate(layers):
        margin, seen = margins[:, column], comparable[:, column]
        # A non-finite score has no margin either; NaN comparisons would drop the image from every count.
        tied = ~(margin > 0) & seen
        free = seen & ~tied
        agrees = (file_indices[:, column] == choice[:, column]) & free
        error = None
        if file_scores is not None:
            error = _gap_error(file_scores[column], reference_scores[:, column], choice[:, column], agrees)
        tolerance = 0.0 if error is None or not np.isfinite(error) else min(ERROR_HEADROOM * error, cap)
        close = margin < tolerance
        # Only close ones: a file whose scores all tie has not earned an exemption.
        tied_in_file = np.zeros_like(tied)
        if file_scores is not None:
            tied_in_file = free & close & _ties(file_scores[column], file_indices[:, column])
        any_tied |= tied_in_file
        known = margin[free & ~np.isposinf(margin)]
        results.append(
            LayerSelection(
                layer=layer,
                agreed=int(agrees.sum()),
                explained=int((free & ~agrees & close).sum()),
                unexplained=int((free & ~agrees & ~close).sum()),
                tied=int(tied.sum()),
                tied_in_file=int(tied_in_file.sum()),
                not_judged=int((~seen).sum()),
                at_risk=int((agrees & close).sum()),
                measured_error=error,
                tolerance=tolerance,
                smallest_margin=float(known.min()) if len(known) else None,
                margins=MarginHistogram.of(margin[seen]),
            )
        )
    histogram = margin_histogram(margins[comparable])
    return SelectionAgreement(tuple(results), len(file_indices), any_tied, histogram)


def margin_histogram(margins: Floats) -> dict[str, int]:
    """Return how many of the margins lie in each decade, ``"1e-4"`` meaning 1e-4 to 1e-3; ties are under ``"0"``."""
    known = margins[~np.isposinf(margins)]
    positive = known[known > 0]
    histogram = {"0": int(known.size - positive.size)}
    if positive.size:
        decades = np.floor(np.log10(positive)).astype(int)
        for decade in range(int(decades.min()), int(decades.max()) + 1):
            histogram[f"1e{decade}"] = int((decades == decade).sum())
    return histogram


def _ties(scores: Floats, index: Indices) -> npt.NDArray[np.bool_]:
    """Return (N,) whether another component of ``scores`` (N, K) scores exactly what the chosen one does."""
    return np.asarray((relative_gaps(scores, index) == 0).sum(axis=1) > 1)


def _gap_error(
    file_scores: Floats, reference_scores: Floats, choice: Indices, agrees: npt.NDArray[np.bool_]
) -> float | None:
    if not agrees.any():
        return None
    index = choice[agrees]
    difference = relative_gaps(file_scores[agrees], index) - relative_gaps(reference_scores[agrees], index)
    return float(np.abs(difference).max())
