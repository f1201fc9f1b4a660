"""Criteria whose scores tie by construction, so that rounding would choose instead of the image."""

from __future__ import annotations

from aps_deploy.models.spec import ModelSpec
from aps_deploy.polyphase import Criterion


def ties_behind_blur(criterion: Criterion, filter_size: int) -> bool:
    """Return whether the components of a blurred map of non-negative values tie.

    A binomial filter of two taps or more has a zero at the highest frequency: of its taps, those that reach the even
    places sum to one half, and so do the others. Every component therefore has the same l1 norm; only the rounding of
    the blur tells them apart.
    """
    return criterion in ("l1", "l1_min") and filter_size > 1


def ties_behind_maximum(criterion: Criterion, filter_size: int) -> bool:
    """Return whether the components behind a maximum pool of stride 1 tie.

    It repeats its largest value in neighbours, one in each component; a blur makes them differ again.
    """
    return criterion in ("linf", "max") and filter_size == 1


def why_tied(spec: ModelSpec, criterion: Criterion) -> str | None:
    """Return in one sentence why a layer of a network ties in every image; None where none must.

    Only the ImageNet family has such layers: it selects on blurred maps behind a ReLU, and behind a maximum pool.
    """
    if spec.sampler != "aps" or spec.family != "imagenet":
        return None
    if ties_behind_blur(criterion, spec.filter_size):
        reason = "its blur gives every component the same sum"
    elif ties_behind_maximum(criterion, spec.filter_size):
        reason = "its maximum pool puts the largest value into every component"
    else:
        return None
    return (
        f"the criterion {criterion} ties in every image in {spec.name}, because {reason}: "
        "rounding chooses then, and neither shifts nor runtimes need agree; use the criterion l2."
    )
