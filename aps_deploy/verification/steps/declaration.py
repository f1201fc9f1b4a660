"""What the file says of itself, held against the reference and against its own graph."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from aps_deploy.verification.declaration import (
    declared_differently,
    kept_declared_differently,
    precision_declared_differently,
    unaudited_layers,
)
from aps_deploy.verification.layer_precision import faults_against, file_precision
from aps_deploy.verification.steps.run import Run

if TYPE_CHECKING:
    import onnx


def check_declaration(run: Run, present: set[str]) -> None:
    """Compare what the file says of itself with the reference, and ask it for evidence of every selection."""
    declared, promised = run.session.metadata, run.promised
    others: tuple[str, ...] = ()
    if declared.is_known:
        others = declared_differently(declared, promised)
        if run.graph is not None:
            others += precision_declared_differently(run.file, declared, file_precision(run.layers))
            others += kept_declared_differently(run.file, declared, run.layers)
        run.details["declared_differently"] = list(others)
    if not declared.is_known:
        run.ledger.not_applicable("file", "declared_differently", "the file declares nothing")
    elif others or (run.reference.kind != "none" and run.reference.promised.is_known):
        run.ledger.record("file", "declared_differently", len(others), fault="; ".join(others))
    else:
        reason = "no reference says what the file must be; the graph bears out what it declares of its precision"
        run.ledger.not_applicable("file", "declared_differently", reason)
    if not promised.num_selections:
        reason = "the network selects nothing" if promised.is_known else "nothing says that the network selects"
        run.ledger.not_applicable("file", "unaudited_layers", reason)
        return
    missing, lacks = unaudited_layers(declared, promised, present, is_graph=run.graph is not None)
    fault = f"the file is not auditable: {lacks}; the gate unaudited_layers=off measures it as far as that goes"
    run.ledger.record("file", "unaudited_layers", missing, fault=fault)


def check_precision(run: Run) -> None:
    """Hold the precision of every layer against the one asked for, or else the one declared."""
    declared, asked = run.session.metadata.precision, run.asked_precision
    found = found_precision(run)
    run.details["precision"] = {
        "declared": declared,
        "asked": asked,
        "found": found,
        "layers": [dataclasses.asdict(layer) for layer in run.layers],
    }
    wanted = asked or declared
    if wanted is None:
        reason = f"the file declares no precision and none was asked for; it computes in {found}"
        run.ledger.not_applicable("file", "other_precision_layers", reason)
        return
    if run.plan is not None and not run.layers:
        reason = "the document beside the engine does not say in which precision its layers compute"
        run.ledger.not_applicable("file", "other_precision_layers", reason)
        return
    if run.graph is None and run.plan is None:
        # A checkpoint has no graph: PyTorch runs all of it in float32.
        others, words = int(wanted != "fp32"), "a checkpoint runs in fp32"
    else:
        others, words = faults_against(run.layers, wanted)
    fault = f"{wanted} is {'asked for' if asked else 'declared'}: {words}"
    run.ledger.record("file", "other_precision_layers", others, fault=fault)


def found_precision(run: Run) -> str:
    """Return the precision that the layers have; ``unread`` for an engine of which nothing tells it."""
    return "unread" if run.plan is not None and not run.layers else file_precision(run.layers)


def skip_static(run: Run, reason: str) -> None:
    """Enter why there is no graph to walk."""
    run.details["static"] = []
    run.ledger.not_applicable("static", "static_findings", reason)


def check_static(run: Run, graph: onnx.ModelProto) -> None:
    """Walk the graph upstream of every selection for what breaks exactness."""
    from aps_deploy.verification.static_check import check_graph

    findings = check_graph(graph, run.located, run.promised)
    run.details["static"] = [dataclasses.asdict(finding) for finding in findings]
    if not run.session.metadata.is_known:
        reason = f"the file declares nothing to check it by; findings listed in the details: {len(findings)}"
        run.ledger.not_applicable("static", "static_findings", reason)
        return
    shown = [f"{finding.rule} at {finding.node}: {finding.message}" for finding in findings[:3]]
    more = [f"and {len(findings) - 3} more"] if len(findings) > 3 else []
    run.ledger.record("static", "static_findings", len(findings), fault="; ".join(shown + more))
