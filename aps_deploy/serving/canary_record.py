"""What the canary of one version of a model saw so far, and what it holds the model to."""

from __future__ import annotations

import dataclasses
from typing import Literal

from aps_deploy.runtimes.metadata import ModelMetadata

Promise = Literal["bits", "class", "nothing"]
"""What must be the same for every circular shift: every bit of the logits, the best class, or nothing at all."""


def promise_of(metadata: ModelMetadata, height: int, width: int, *, on_cpu: bool) -> Promise:
    """Return what a file promises of circular shifts of images of this size; its metadata says so.

    A network that selects exactly and pads circularly keeps its answer, and on ONNX Runtime's CPU every bit of it, as
    `aps-deploy verify` demands there; on other devices kernels are chosen by shape, so only the class is held. Strided
    networks, float selection, padding with zeros, sizes that are no multiple of the total stride (whose odd maps are
    padded) and files of other tools promise nothing.

    Args:
        metadata: what the file says of itself.
        height: of the image, in pixels.
        width: of the image, in pixels.
        on_cpu: whether ONNX Runtime's CPU provider computes.
    """
    selects = bool(metadata.selection_layers) and metadata.selection == "exact"
    wraps = metadata.arguments.get("padding", "circular") == "circular"
    fits = height % metadata.total_stride == 0 and width % metadata.total_stride == 0
    if not (selects and wraps and fits):
        return "nothing"
    return "bits" if on_cpu else "class"


@dataclasses.dataclass
class CanaryRecord:
    """The counts of one model's canary; only the event loop's thread writes and reads them.

    Attributes:
        promise: what the model is held to.
        num_runs: runs with an outcome.
        num_failures: those that broke the promise.
        num_skipped: runs given up for the requests' sake: the queue was full, or the copies waited too long.
        consistency: share of the last run's shifts with the best class of the unshifted image; None before a run.
        bit_identity: share of the last run's shifts with all its bits; None before a run.
        last_run_s: when the last run ended, in seconds since 1970; None before a run.
        has_failed: whether the last run broke the promise.
    """

    promise: Promise = "nothing"
    num_runs: int = 0
    num_failures: int = 0
    num_skipped: int = 0
    consistency: float | None = None
    bit_identity: float | None = None
    last_run_s: float | None = None
    has_failed: bool = False
