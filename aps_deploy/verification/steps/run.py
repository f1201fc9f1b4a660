"""What the steps of a verification share: what is verified, with what, and what was found so far."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aps_deploy.verification.comparing import Progress
from aps_deploy.verification.crop_shifts import Scene
from aps_deploy.verification.layer_precision import LayerPrecision
from aps_deploy.verification.ledger import Ledger
from aps_deploy.verification.plan_evidence import PlanEvidence
from aps_deploy.verification.references.base import Reference, ReferenceTrace
from aps_deploy.verification.shifts import ShiftSet
from aps_deploy.verification.worst_case import WorstCase

if TYPE_CHECKING:
    import onnx

    from aps_deploy.runtimes import ModelMetadata, Session
    from aps_deploy.runtimes.batching import ImageSource

_LOGGER = logging.getLogger(__name__)

Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]

NO_REFERENCE = "there is no reference to compare with"


@dataclasses.dataclass
class Run:
    """One verification under way; every step adds checks to the ledger and measurements to the details.

    ``file`` is what is verified, open in ``session``. ``graph`` is the file's, inlined, and ``layers`` its layers; a
    checkpoint has None and none. ``plan`` is what stands beside an engine, whose own graph nobody can read; None for
    other files. ``scene`` has a few of the images with their surroundings, or None where nothing is known of those.
    ``own_trace`` has the reference's answers by its own choices, once they are made.
    """

    file: str | os.PathLike[str]
    session: Session
    graph: onnx.ModelProto | None
    layers: tuple[LayerPrecision, ...]
    asked_precision: str | None
    reference: Reference
    images: ImageSource
    labels: Labels | None
    shifts: ShiftSet
    ledger: Ledger
    batch_size: int
    seed: int
    progress: Progress | None
    scene: Scene | None = None
    plan: PlanEvidence | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    worst_case: WorstCase | None = None
    own_trace: ReferenceTrace | None = None

    @property
    def promised(self) -> ModelMetadata:
        """What the file must keep: what the reference promises or, where it says nothing, what the file declares."""
        return self.reference.promised if self.reference.promised.is_known else self.session.metadata

    @functools.cached_property
    def located(self) -> ModelMetadata:
        """What the file says of itself, with its selections' values by the names that they have in the graph."""
        from aps_deploy.verification.score_names import located_selections

        graph = self.readable_graph
        return self.session.metadata if graph is None else located_selections(graph, self.session.metadata)

    @property
    def readable_graph(self) -> onnx.ModelProto | None:
        """The file's graph or, for an engine, the one it was compiled from; None where there is none to read."""
        return self.graph if self.plan is None else self.plan.graph


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Say in the log how long a step took, so that the reference's own time can be told from the file's."""
    start = time.perf_counter()
    yield
    _LOGGER.info("%s: %.1f s", what, time.perf_counter() - start)
