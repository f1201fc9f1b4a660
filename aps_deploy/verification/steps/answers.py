"""The answers of the file and of the reference for the images as they are, which all other steps start from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.runtimes.session import INDICES, LOGITS
from aps_deploy.verification.references.base import NUM_COMPONENTS
from aps_deploy.verification.references.compared import ComparedTrace, compared_trace
from aps_deploy.verification.steps.run import Indices, Run, timed


def file_outputs(run: Run, present: set[str]) -> tuple[npt.NDArray[Any] | None, Indices | None]:
    """Return the file's logits and indices for all images; None for what it does not have."""
    from aps_deploy.runtimes import iterate_outputs

    metadata = run.session.metadata
    expected = ["logits"] if metadata.is_known else []
    if metadata.num_selections:
        expected.append("polyphase_indices")
    missing = [name for name in expected if name not in present]
    fault = f"the file has no output {', '.join(missing)}"
    run.ledger.record("file", "missing_outputs", len(missing), fault=fault)
    if "logits" in missing:
        return None, None
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    for rows, outputs in iterate_outputs(run.session, run.images, batch_size=run.batch_size):
        _check_shape(outputs[LOGITS], rows.stop - rows.start, run.session.source)
        # A file of another tool may have feature maps among its outputs: of all images they would not fit.
        for name in (LOGITS, INDICES):
            if name in outputs:
                parts.setdefault(name, []).append(outputs[name])
        if run.progress is not None:
            run.progress("the file, unshifted", rows.stop, len(run.images))
    kept = {name: np.concatenate(values) for name, values in parts.items()}
    logits = kept[LOGITS]
    num_classes = run.reference.num_classes
    if num_classes not in (None, logits.shape[1]):
        raise InputError(
            f"{run.session.source} gives outputs of shape {logits.shape} for {len(run.images)} images, but the "
            f"reference {run.reference.name} has {num_classes} classes; give the checkpoint it was made from."
        )
    bad_rows = int((~np.isfinite(logits).all(axis=1)).sum())
    run.ledger.record("file", "non_finite_rows", bad_rows)
    return logits, kept.get(INDICES)


def usable_indices(run: Run, indices: Indices | None) -> Indices | None:
    """Return the indices if they can be held against the reference's; count what is out of range."""
    num_layers = len(run.reference.selection_layers)
    if run.reference.kind == "none" and indices is not None and indices.ndim == 2:
        num_layers = indices.shape[1]
    if indices is None or num_layers == 0:
        return None
    if indices.shape != (len(run.images), num_layers):
        raise InputError(
            f"{run.session.source} reports selections of shape {indices.shape} for {len(run.images)} images, but "
            f"the reference selects in {num_layers} layers; give the checkpoint it was made from."
        )
    if not np.issubdtype(indices.dtype, np.integer):
        raise InputError(f"{run.session.source} reports selections as {indices.dtype}; export the file again.")
    outside = int(((indices < 0) | (indices >= NUM_COMPONENTS)).sum())
    run.ledger.record("selection", "index_range", outside)
    return None if outside else indices.astype(np.int64)


def reference_answers(run: Run, indices: Indices | None) -> ComparedTrace | None:
    """Return the reference's answers for all images; None where there is no reference."""
    if run.reference.kind == "none":
        return None
    with timed("the reference"):
        own = run.reference.trace(run.images, batch_size=run.batch_size, progress=run.progress)
        run.own_trace = own
        return compared_trace(run.reference, run.images, own, indices, batch_size=run.batch_size, progress=run.progress)


def _check_shape(logits: npt.NDArray[Any], count: int, source: str) -> None:
    if logits.ndim != 2 or len(logits) != count or logits.shape[1] < 1:
        raise InputError(
            f"{source} gives an output of shape {logits.shape} for {count} images; accepted are classifiers, whose "
            "first output is (N, classes)."
        )
