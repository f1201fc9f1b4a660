"""Where the error is made, asked when a gate of selection or parity failed."""

from __future__ import annotations

from typing import cast

import numpy as np

from aps_deploy.verification.references.checkpoint import CheckpointReference
from aps_deploy.verification.steps.parity import PARITY_GATES
from aps_deploy.verification.steps.run import Indices, Run

LOCATED_GATES = ("unexplained_selections", *PARITY_GATES[1:], "accuracy_drop")
"""Gates whose failure asks for the layer that makes the error."""

LOCATED_IMAGES = 8
"""Images it is looked for on, the worst first: every map of every layer is in memory then."""


def locate_failure(run: Run, forced: Indices | None) -> None:
    """Say in which layer the error is made, where a gate of selection or parity failed."""
    run.details["localisation"] = None
    failed = {check.name for check in run.ledger.checks if check.status == "failed"}
    if failed.isdisjoint(LOCATED_GATES):
        return
    from aps_deploy.verification.localisation.locating import located, nowhere

    if run.reference.kind != "checkpoint":
        found = nowhere("the reference is no PyTorch network, so its layers cannot be compared")
        run.details["localisation"] = found.to_dict()
        return
    if run.plan is not None:
        found = nowhere(
            "an engine does not tell the maps between its layers; verify the ONNX file it was compiled from"
        )
        run.details["localisation"] = found.to_dict()
        run.ledger.add_to_failed(LOCATED_GATES, found.words)
        return
    order = dict.fromkeys([run.details["parity"]["worst_image"], *range(len(run.images))])
    rows = np.array(list(order)[:LOCATED_IMAGES])
    found = located(
        run.graph,
        run.session,
        run.layers,
        cast(CheckpointReference, run.reference),
        run.images[rows],
        None if forced is None else forced[rows],
        gates=run.ledger.gates,
        checks=run.ledger.checks,
    )
    run.details["localisation"] = found.to_dict()
    if run.graph is not None:
        run.ledger.add_to_failed(LOCATED_GATES, found.words)
