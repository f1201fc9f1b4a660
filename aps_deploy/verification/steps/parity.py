"""Whether the file's logits are the reference's, for equal choices, and its accuracy the reference's, by their own."""

from __future__ import annotations

import dataclasses

import numpy as np

from aps_deploy.errors import InputError
from aps_deploy.verification.comparing import Logits
from aps_deploy.verification.parity import compare_logits, percent_right
from aps_deploy.verification.references.compared import ComparedTrace
from aps_deploy.verification.steps.run import NO_REFERENCE, Run

PARITY_GATES = ("parity_images", "parity_excess", "parity_mean_abs", "parity_cosine", "clear_top1_changes")


def check_parity(run: Run, logits: Logits, compared: ComparedTrace | None) -> None:
    """Compare the logits where both chose alike, and the accuracies on all images.

    The accuracy that other choices cost is lost all the same: the reference's is that of its own choices.
    """
    ledger = run.ledger
    if compared is None:
        for name in (*PARITY_GATES, "accuracy_drop"):
            ledger.not_applicable("parity", name, NO_REFERENCE)
        _accuracy_floor(run, logits)
        return
    if logits.shape != compared.trace.logits.shape:
        raise InputError(
            f"{run.session.source} has {logits.shape[1]} classes, but the reference {run.reference.name} has "
            f"{compared.trace.logits.shape[1]}; give the model it was made from."
        )
    rows = np.flatnonzero(compared.comparable)
    left_out = len(logits) - len(rows)
    run.counts["parity_images"] = len(rows)
    fault = f"{left_out} images are not compared: the file and the reference chose other components"
    ledger.record("parity", "parity_images", 100 * len(rows) / len(logits), fault=fault if left_out else "")
    if not len(rows):
        for name in PARITY_GATES[1:]:
            ledger.not_applicable("parity", name, "no image could be compared, which parity_images counts")
        _accuracy_drop(run, logits)
        _accuracy_floor(run, logits)
        return
    parity = compare_logits(
        logits[rows],
        compared.trace.logits[rows],
        atol=ledger.limit("parity_atol"),
        rtol=ledger.limit("parity_rtol"),
    )
    parity = dataclasses.replace(
        parity,
        worst_image=int(rows[parity.worst_image]),
        file_accuracy_percent=percent_right(logits, run.labels),
        reference_accuracy_percent=_reference_accuracy(run),
    )
    run.details["parity"] = {**parity.to_dict(), "choices": compared.choices, "left_out": left_out}
    where = f"worst at image {parity.worst_image}, max abs {parity.max_abs:.3g}"
    ledger.record("parity", "parity_excess", parity.worst_excess, fault=where)
    ledger.record("parity", "parity_mean_abs", parity.mean_abs)
    ledger.record("parity", "parity_cosine", parity.cosine)
    ledger.record("parity", "clear_top1_changes", parity.clear_disagreements)
    _accuracy_drop(run, logits)
    _accuracy_floor(run, logits)


def _accuracy_floor(run: Run, logits: Logits) -> None:
    """Hold the accuracy against what the caller asks for."""
    percent = percent_right(logits, run.labels)
    if percent is None:
        run.ledger.not_applicable("parity", "accuracy_floor", "there are no labels")
    else:
        run.ledger.record("parity", "accuracy_floor", percent)


def _accuracy_drop(run: Run, logits: Logits) -> None:
    """Hold the accuracy against the reference's."""
    file_percent, reference_percent = percent_right(logits, run.labels), _reference_accuracy(run)
    if file_percent is None or reference_percent is None:
        run.ledger.not_applicable("parity", "accuracy_drop", "there are no labels")
    else:
        run.ledger.record("parity", "accuracy_drop", reference_percent - file_percent)


def _reference_accuracy(run: Run) -> float | None:
    return None if run.own_trace is None else percent_right(run.own_trace.logits, run.labels)
