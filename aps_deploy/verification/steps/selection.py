"""Whether the file chooses the components that the reference chooses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError
from aps_deploy.verification.instrument import measure_scores
from aps_deploy.verification.references.base import NUM_COMPONENTS
from aps_deploy.verification.references.checkpoint import load_reference
from aps_deploy.verification.references.compared import ComparedTrace
from aps_deploy.verification.selection import SelectionAgreement, compare_selections
from aps_deploy.verification.steps.run import NO_REFERENCE, Indices, Run


def check_selection(run: Run, indices: Indices, compared: ComparedTrace) -> SelectionAgreement:
    """Compare the choices layer by layer, and tell those that the file's measured error explains from the others."""
    scores, note = _file_scores(run, indices)
    trace = compared.trace
    if np.isposinf(trace.margins).all():
        scores, note = None, "the reference tells no margins, so nothing explains a disagreement"
    agreement = compare_selections(
        run.reference.selection_layers,
        indices,
        trace.chosen,
        trace.scores,
        trace.margins,
        file_scores=scores,
        cap=run.ledger.limit("margin_cap"),
        judged=compared.judged,
    )
    run.details["selection"] = {**agreement.to_dict(), "scores": note}
    for name in ("agreed", "explained", "unexplained", "tied", "tied_in_file", "not_judged", "at_risk"):
        run.counts[name] = agreement.total(name)
    run.counts["tied_images"] = int(agreement.tied_images.sum())
    worst = [layer.layer for layer in agreement.layers if layer.unexplained]
    fault = f"layers {', '.join(worst)}" + ("" if scores is not None else f"; {note}")
    run.ledger.record("selection", "unexplained_selections", agreement.total("unexplained"), fault=fault)
    if scores is None:
        run.ledger.not_applicable("selection", "at_risk_selections", note)
    else:
        run.ledger.record("selection", "at_risk_selections", agreement.total("at_risk"))
    return agreement


def skip_selection(run: Run, indices: Indices | None) -> None:
    """Enter why the choices cannot be compared."""
    if run.reference.kind == "none":
        reason = NO_REFERENCE
    elif not run.reference.selection_layers:
        selects = run.promised.num_selections > 0
        reason = "the reference reports no selections" if selects else "the network selects nothing"
    elif indices is None:
        reason = "the file does not report its selections"
    else:
        reason = "the file's indices are out of range"
    run.details["selection"] = None
    for name in ("unexplained_selections", "at_risk_selections"):
        run.ledger.not_applicable("selection", name, reason)


def _file_scores(run: Run, indices: Indices) -> tuple[tuple[npt.NDArray[np.float64], ...] | None, str]:
    """Return the file's own scores per layer, or None and why they cannot be had."""
    metadata, session = run.located, run.session
    if run.plan is not None:
        return None, "an engine does not tell its scores, so nothing explains a disagreement"
    if run.graph is None:
        other = load_reference(run.file)
        other.model.to(session.device)
        traced = other.trace(run.images, batch_size=run.batch_size).scores
        return tuple(traced[:, layer] for layer in range(traced.shape[1])), "measured in PyTorch"
    if len(metadata.selections) != len(run.reference.selection_layers):
        return None, "the file's metadata names no score values, so nothing explains a disagreement"
    try:
        measured = measure_scores(
            run.graph,
            metadata,
            run.images,
            runtime=session.runtime,
            device=session.device,
            batch_size=run.batch_size,
        )
    except ApsError as error:
        return None, f"the scores cannot be measured ({error}), so nothing explains a disagreement"
    if any(scores.shape != (len(run.images), NUM_COMPONENTS) for scores in measured.scores):
        return None, "the values that the metadata names are no scores, so nothing explains a disagreement"
    if not np.array_equal(measured.indices, indices):
        return None, "the copy that outputs its scores selects otherwise than the file, so nothing is explained"
    return measured.scores, f"measured in {session.runtime} on a copy of the graph"
