"""What the step of parity enters: logits for equal choices, accuracies for each one's own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from aps_deploy.verification.references.compared import ComparedTrace
from aps_deploy.verification.steps.parity import check_parity
from tests.verification.fakes import invariant
from tests.verification.samples import measured_run


def test_a_class_that_another_choice_costs_is_lost_accuracy() -> None:
    """The reference, made to choose as the file does, errs as the file does; by its own choices it would be right."""
    run = measured_run(invariant, count=10)
    run.ledger.checks.clear()
    own = invariant(run.images)
    run.labels = own.argmax(axis=1)
    flipped = own.copy()
    flipped[3] = np.roll(own[3], 1)
    run.own_trace = SimpleNamespace(logits=own)  # type: ignore[assignment]
    every = np.ones(10, bool)
    forced = ComparedTrace(SimpleNamespace(logits=flipped), every, every, "forced")  # type: ignore[arg-type]

    check_parity(run, flipped, forced)

    measured = {check.name: check.measured for check in run.ledger.checks}
    assert measured["parity_excess"] == 0
    assert measured["accuracy_drop"] == 10
    assert run.details["parity"]["file_accuracy_percent"] == 90
    assert run.details["parity"]["reference_accuracy_percent"] == 100
