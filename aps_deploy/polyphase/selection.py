"""Which component an image keeps: scores, the choice, and its margin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aps_deploy.polyphase.criteria import Criterion, SelectionMode, is_additive, keeps_smallest
from aps_deploy.polyphase.definition import check_divisible, polyphase_components
from aps_deploy.polyphase.exact import component_sums, energy_map, quantise, quantised_bits, working_dtype


@dataclass(frozen=True)
class Selection:
    """The choice for every image of a batch.

    Attributes:
        index: (N,) int64, the component kept.
        scores: (N, stride**2), int64 for the exact l2 and l1 families, else float.
        margin: (N,) float64, (best - second) / max(|best|, |second|) of the scores; 0 means an exact tie, and
            images with a NaN or an infinity have margin 0.
    """

    index: Tensor
    scores: Tensor
    margin: Tensor


def component_scores(x: Tensor, stride: int, criterion: Criterion, selection: SelectionMode) -> Tensor:
    """Return the score of each polyphase component of ``x`` (N, C, H, W): (N, stride**2), in order of k.

    Exact selection of the l2 and l1 families gives int64 sums of quantised energies, the same for every circular
    shift by a multiple of the stride; float selection gives the norms themselves, as the authors compute them.
    linf and max are maxima, free of order in both modes. Where an image holds a NaN or an infinity that reaches its
    scores, all of its scores are 0, so that it selects component 0.

    Raises:
        InputError: H or W is not a multiple of the stride.
    """
    check_divisible(x.shape[2], x.shape[3], stride)
    if is_additive(criterion) and selection == "exact":
        energy = energy_map(x, power=2 if criterion.startswith("l2") else 1)
        largest = energy.amax(dim=(1, 2), keepdim=True)
        bits = quantised_bits(energy.dtype, x.shape[2] * x.shape[3] // stride**2)
        return component_sums(quantise(energy, largest, bits), stride)
    components = polyphase_components(x.to(working_dtype(x.dtype)), stride).flatten(2)
    if criterion == "max":
        scores = components.amax(dim=2)
        finite = torch.isfinite(components.abs().amax(dim=(1, 2)))
    else:
        order = float("inf") if criterion == "linf" else 2.0 if criterion.startswith("l2") else 1.0
        scores = torch.linalg.vector_norm(components, ord=order, dim=2)
        finite = torch.isfinite(scores).all(dim=1)
    return torch.where(finite[:, None], scores, 0.0)


def choose(scores: Tensor, criterion: Criterion) -> Tensor:
    """Return the index (N,) int64 of the winning score of each row of ``scores`` (N, K); ties go to the lowest."""
    best = scores[:, 0]
    index = torch.zeros_like(best, dtype=torch.int64)
    # Written as a chain of strict comparisons, like the ONNX body: argmax leaves the order of ties open.
    for k in range(1, scores.shape[1]):
        candidate = scores[:, k]
        better = candidate < best if keeps_smallest(criterion) else candidate > best
        index = torch.where(better, k, index)
        best = torch.where(better, candidate, best)
    return index


def relative_margin(scores: Tensor, criterion: Criterion) -> Tensor:
    """Return (best - second) / max(|best|, |second|) of each row of ``scores`` (N, K), as float64 (N,)."""
    ranked = scores.sort(dim=1, descending=not keeps_smallest(criterion)).values[:, :2]
    difference = (ranked[:, 0] - ranked[:, 1]).abs().to(torch.float64)
    magnitude = ranked.abs().amax(dim=1).to(torch.float64)
    return torch.where(magnitude > 0, difference / magnitude, 0.0)


def select(x: Tensor, stride: int = 2, criterion: Criterion = "l2", selection: SelectionMode = "exact") -> Selection:
    """Return the choice for every image of ``x`` (N, C, H, W), with its scores and margin.

    Equivariance: where the winner is unique, the choice for ``x`` rolled by (a, b) is ((dy + a) % s, (dx + b) % s)
    for the choice (dy, dx) of ``x``.
    """
    scores = component_scores(x, stride, criterion, selection)
    return Selection(choose(scores, criterion), scores, relative_margin(scores, criterion))
