"""Criteria whose scores tie by construction, so that rounding would choose instead of the image."""

from __future__ import annotations

from aps_deploy.models.spec import ModelSpec
from aps_deploy.polyphase import Criterion


def why_tied(spec: ModelSpec, criterion: Criterion) -> str | None:
    """Return in one sentence why a layer of a network ties in every image; None where none must.

    Both cases concern the ImageNet family, which selects on blurred maps and behind a maximum pool:

    - A binomial filter of two taps or more has a zero at the highest frequency: of its taps, those that reach the even
      places sum to one half, and so do the others. Every component of the blurred map of non-negative values (all
      come from a ReLU) therefore has the same l1 norm; only the rounding of the blur tells them apart.
    - The 2x2 maximum pool of stride 1 repeats its largest value in four neighbours, one in each component; a blur
      makes them differ again.
    """
    if spec.sampler != "aps" or spec.family != "imagenet":
        return None
    if criterion in ("l1", "l1_min") and spec.filter_size > 1:
        reason = "its blur gives every component the same sum"
    elif criterion in ("linf", "max") and spec.filter_size == 1:
        reason = "its maximum pool puts the largest value into every component"
    else:
        return None
    return (
        f"the criterion {criterion} ties in every image in {spec.name}, because {reason}: "
        "rounding chooses then, and neither shifts nor runtimes need agree; use the criterion l2."
    )
