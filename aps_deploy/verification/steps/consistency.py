"""Whether the file answers alike for an image and its circular shifts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.verification.authors import CIFAR_PROTOCOL, IMAGENET_PROTOCOL, authors_consistency
from aps_deploy.verification.comparing import Logits, finite_or_none
from aps_deploy.verification.consistency import Consistency, measure_consistency
from aps_deploy.verification.references.base import family_of
from aps_deploy.verification.steps.run import Run, timed
from aps_deploy.verification.worst_case import make_worst_case

REFERENCE_IMAGES = 16
REFERENCE_PAIRS = 16_384
"""The reference is tried under shifts too, to be seen beside the file: on a few images, or not at all where one image
under all shifts is more than this. PyTorch on a CPU would otherwise take most of the time."""


def check_consistency(run: Run, tied: npt.NDArray[np.bool_], logits: Logits | None = None) -> None:
    """Move every image by every shift and by the authors' protocol; keep the worst pair and say what made it.

    ``logits`` are the file's for the images as they are, where these are known; ``tied`` images are counted apart.
    """
    with timed("the file under shifts"):
        found = measure_consistency(
            run.session,
            run.images,
            run.shifts,
            batch_size=run.batch_size,
            tied=tied,
            base=logits,
            progress=run.progress,
        )
    family = run.reference.family or family_of(max(run.images.shape[2:]))
    with timed("the authors' protocol"):
        authors = authors_consistency(
            run.session,
            run.images,
            run.labels,
            protocol=IMAGENET_PROTOCOL if family == "imagenet" else CIFAR_PROTOCOL,
            seed=run.seed,
            batch_size=run.batch_size,
            base=logits,
            progress=run.progress,
        )
    run.details["consistency"] = found.to_dict()
    run.details["reference_consistency"] = _reference_consistency(run, tied)
    run.details["worst_case"] = _worst_case(run, found)
    run.details["authors_protocol"] = authors.to_dict()
    run.counts.update(
        pairs=found.num_pairs,
        changed_pairs=found.num_pairs - found.agreeing_pairs,
        not_identical_pairs=found.num_pairs - found.identical_pairs,
        tied_pairs=found.tied_pairs,
        tied_not_identical_pairs=found.tied_pairs - found.tied_identical_pairs,
    )
    run.ledger.record("consistency", "non_finite_pairs", found.non_finite_pairs)
    if found.num_pairs == 0:
        fault = "every image ties in the reference, so nothing was measured"
    else:
        fault = (
            f"worst at image {found.worst_image} and shift {found.worst_shift}, "
            f"largest logit change {found.max_logit_change:.3g}"
        )
    fault += _why(run, found)
    run.ledger.record("consistency", "top1_consistency", found.top1_percent, fault=fault)
    run.ledger.record("consistency", "identical_shifts", found.identical_shifts_percent, fault=fault)
    run.ledger.record("consistency", "authors_consistency", authors.consistency_percent)


def _reference_consistency(run: Run, tied: npt.NDArray[np.bool_]) -> dict[str, Any] | None:
    """Return how a few images fare in the reference; None where the shifts are too many, or it cannot be run."""
    if not run.reference.can_run:
        return None
    count = min(REFERENCE_IMAGES, REFERENCE_PAIRS // len(run.shifts))
    if count == 0:
        return None
    free = np.flatnonzero(~tied)
    candidates = free if len(free) else np.arange(len(tied))
    # Spread over the images, which come class by class.
    rows = candidates[np.unique(np.linspace(0, len(candidates) - 1, count).astype(int))]
    progress = run.progress
    found = measure_consistency(
        run.reference,
        run.images[rows],
        run.shifts,
        batch_size=run.batch_size,
        tied=tied[rows],
        progress=None if progress is None else lambda _, done, total: progress("reference shifts", done, total),
    )
    document = found.to_dict()
    # Positions among these few images would be taken for positions among all.
    for name in ("worst_image", "worst_shift", "worst_pair"):
        del document[name]
    return {**document, "images": [int(row) for row in rows]}


def _worst_case(run: Run, found: Consistency) -> dict[str, Any] | None:
    """Keep the worst pair as arrays, and return what the certificate tells of it."""
    pair = found.worst_pair
    if pair is None:
        return None
    session, reference = run.session, run.reference
    about = {
        "reference_sha256": reference.sha256,
        "runtime": session.runtime,
        "device": session.device,
        "providers": list(session.providers),
        "image_position": pair.image,
    }
    runner = reference if reference.can_run else None
    run.worst_case = make_worst_case(session, runner, run.images, pair, about)
    names = session.metadata.class_names or reference.class_names
    preprocessing = session.metadata.preprocessing or reference.preprocessing
    return {
        "image": pair.image,
        "image_file": None,
        "shift": [pair.dy, pair.dx],
        "in_batch": {
            "changes_class": pair.changes_class,
            "bit_identical": pair.identical,
            "max_logit_change": finite_or_none(pair.max_logit_change),
        },
        **run.worst_case.to_dict(preprocessing, names),
        "file": None,
    }


def _why(run: Run, found: Consistency) -> str:
    """Return, where a gate of consistency fails, which operator makes the worst case differ."""
    gates, case = run.ledger.gates, run.worst_case
    percents = {"top1_consistency": found.top1_percent, "identical_shifts": found.identical_shifts_percent}
    run.details["probe"] = None
    if case is None or all(gates[name].accepts(percent) for name, percent in percents.items()):
        return ""
    from aps_deploy.verification.probe.explaining import explain_worst_case

    explanation = explain_worst_case(run.readable_graph, run.session, case)
    run.details["probe"] = explanation.to_dict()
    return "" if run.readable_graph is None else f"; {explanation.words}"
