"""Whether an answer depends on what else is in the batch."""

from __future__ import annotations

from aps_deploy.verification.batch import check_batches
from aps_deploy.verification.steps.run import Run


def check_batch(run: Run) -> None:
    """Compare an image's answers alone, in a full batch, in its first and last place and beside copies of itself."""
    ledger = run.ledger
    result = check_batches(run.session, run.images, atol=ledger.limit("batch_atol"), rtol=ledger.limit("batch_rtol"))
    run.details["batch"] = result.to_dict()
    takes_one = run.session.input_spec.batch == 1
    for name, difference in (
        ("repeat_difference", result.repeat),
        ("identical_rows", result.identical_rows),
        ("batch_size_difference", result.size),
        ("batch_slot_difference", result.slot),
    ):
        if takes_one and name != "repeat_difference":
            ledger.not_applicable("batch", name, "the file takes one image per run")
            continue
        ledger.record("batch", name, difference.excess, fault=f"max abs {difference.max_abs:.3g}")
