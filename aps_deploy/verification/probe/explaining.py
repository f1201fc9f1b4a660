"""Why the worst case of a verification changed: the first operator of the file that did not move with that image."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

from aps_deploy.errors import ApsError, InputError
from aps_deploy.verification.probe.probing import probe_model
from aps_deploy.verification.probe.result import ProbeFinding

if TYPE_CHECKING:
    import onnx

    from aps_deploy.runtimes import Session
    from aps_deploy.verification.worst_case import WorstCase


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What one image and one shift say about a file that is not consistent.

    Attributes:
        first: the first operator whose output is not the shifted output; None where none was found.
        note: how it was looked for, or why it could not be.
    """

    first: ProbeFinding | None
    note: str

    @property
    def words(self) -> str:
        """The explanation as the end of a sentence."""
        return self.note if self.first is None else f"first operator that does not move along: {self.first.sentence()}"

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain JSON values."""
        return {"first": None if self.first is None else self.first.to_dict(), "note": self.note}


def explain_worst_case(graph: onnx.ModelProto | None, session: Session, case: WorstCase) -> Explanation:
    """Return which operator of a file makes the worst case differ.

    Args:
        graph: of the file, or that an engine was compiled from, inlined; None for a checkpoint and where there is none.
        session: the file as it is verified.
        case: one image and one shift.
    """
    if graph is None:
        return Explanation(None, "it shows no operators that could be run one by one")
    try:
        with _on_cpu(graph, session) as cpu:
            result = probe_model(graph, cpu, case.image[None], shift=case.shift)
    except ApsError as error:
        return Explanation(None, f"its operators could not be run one by one ({error})")
    where = f"operators one by one in {result.runtime} on cpu, on the worst case's image and shift"
    if result.first is None:
        return Explanation(None, f"no operator alone fails: {where}")
    return Explanation(result.first, where)


def _on_cpu(graph: onnx.ModelProto, session: Session) -> contextlib.AbstractContextManager[Session]:
    """Return the session itself where its pieces can be run as it runs, else another of the same graph on the CPU."""
    from aps_deploy.runtimes import open_session

    if session.runtime == "onnx-reference" or (session.runtime == "onnxruntime" and session.device == "cpu"):
        return contextlib.nullcontext(session)
    try:
        return open_session(graph, runtime="onnxruntime", device="cpu")
    except InputError as error:
        raise ApsError(str(error)) from error
