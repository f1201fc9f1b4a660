"""The reference's answers beside the file's choices: what may be compared with what.

The reference first makes its own choices; this needs nothing of the file, so it can be saved. Images on which the file
chose otherwise are run once more with the file's choices forced, where the reference can be told. Where it cannot, the
first layer that differs still saw the same map as the file's and can be judged; whatever lies behind it did not.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

from aps_deploy.runtimes.batching import ImageSource, Selected
from aps_deploy.verification.comparing import Progress
from aps_deploy.verification.references.base import Reference, ReferenceTrace

Choices = Literal["forced", "same", "unknown"]


@dataclasses.dataclass(frozen=True)
class ComparedTrace:
    """The reference's answers, and where they can be held against the file's.

    Attributes:
        trace: of the reference.
        judged: (N, L) whether the layer saw the map that the file's layer saw.
        comparable: (N,) whether the logits belong to the file's choices.
        choices: ``forced`` where the reference took the file's choices, ``same`` where only images with the same
            choices are compared, ``unknown`` where choices are not known, so that logits are compared as they are.
    """

    trace: ReferenceTrace
    judged: npt.NDArray[np.bool_]
    comparable: npt.NDArray[np.bool_]
    choices: Choices


def compared_trace(
    reference: Reference,
    images: ImageSource,
    own: ReferenceTrace,
    indices: npt.NDArray[np.int64] | None,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> ComparedTrace:
    """Return what the reference answers where the file chooses ``indices``.

    Args:
        reference: can be run again where it can be forced.
        images: (N, 3, H, W), the reference's and the file's.
        own: the reference's trace by its own choices.
        indices: (N, L) the file's choices; None where they are not known.
        batch_size: images per call.
        progress: called after every batch.
    """
    if indices is None:
        return ComparedTrace(own, np.ones(own.chosen.shape, bool), np.ones(len(own.logits), bool), "unknown")
    same = indices == own.chosen
    if not reference.can_force:
        before = np.ones_like(same)
        before[:, 1:] = np.logical_and.accumulate(same, axis=1)[:, :-1]
        return ComparedTrace(own, before, same.all(axis=1), "same")
    rows = np.flatnonzero(~same.all(axis=1))
    everywhere = np.ones_like(same), np.ones(len(same), bool)
    if not len(rows):
        return ComparedTrace(own, *everywhere, "forced")
    again = reference.trace(Selected(images, rows), indices[rows], batch_size=batch_size, progress=progress)
    merged = {}
    for field in dataclasses.fields(ReferenceTrace):
        values = getattr(own, field.name).copy()
        values[rows] = getattr(again, field.name)
        merged[field.name] = values
    return ComparedTrace(ReferenceTrace(**merged), *everywhere, "forced")
