"""The order of the steps, and what each needs from those before it."""

from __future__ import annotations

import numpy as np

from aps_deploy.errors import ApsError
from aps_deploy.verification.selection import tied_images
from aps_deploy.verification.steps.answers import file_outputs, reference_answers, usable_indices
from aps_deploy.verification.steps.batch import check_batch
from aps_deploy.verification.steps.consistency import check_consistency
from aps_deploy.verification.steps.crop_shifts import check_crop_shifts
from aps_deploy.verification.steps.declaration import check_declaration, check_precision, check_static, skip_static
from aps_deploy.verification.steps.localisation import locate_failure
from aps_deploy.verification.steps.parity import check_parity
from aps_deploy.verification.steps.run import Run, timed
from aps_deploy.verification.steps.selection import check_selection, skip_selection


def check_file(run: Run, byte_faults: tuple[str, ...]) -> None:
    """Run every step on the open session.

    Args:
        run: nothing measured yet.
        byte_faults: what is wrong with the file's bytes, in words.

    Raises:
        InputError: the file gives something that no classifier gives, or that does not fit the reference.
        ApsError: it gives no logits while that is allowed, or the runtime failed.
    """
    run.ledger.record("file", "changed_bytes", len(byte_faults), fault="; ".join(byte_faults))
    present = _output_names(run)
    check_declaration(run, present)
    check_precision(run)
    with timed("the file, unshifted"):
        logits, indices = file_outputs(run, present)
    if run.readable_graph is not None:
        check_static(run, run.readable_graph)
    elif run.plan is not None:
        skip_static(run, run.plan.lacks)
    if logits is None:
        if run.ledger.gates["missing_outputs"].limit is None:
            raise ApsError("the file has no output logits, so nothing of it can be measured; export it again.")
        return
    usable = usable_indices(run, indices)
    compared = reference_answers(run, usable)
    agreement = None
    if usable is not None and compared is not None:
        with timed("scores of the file's selections"):
            agreement = check_selection(run, usable, compared)
    if agreement is None:
        skip_selection(run, indices)
    check_parity(run, logits, compared)
    locate_failure(run, usable)
    tied = np.zeros(len(run.images), bool)
    if agreement is not None:
        tied = agreement.tied_images
    elif compared is not None:
        tied = tied_images(compared.trace.margins)
    check_consistency(run, tied, logits)
    with timed("crop windows"):
        check_crop_shifts(run)
    with timed("batches"):
        check_batch(run)


def _output_names(run: Run) -> set[str]:
    # A session lends the name "logits" to whatever output comes first; the graph itself does not.
    return set(run.session.output_names) if run.graph is None else {value.name for value in run.graph.graph.output}
