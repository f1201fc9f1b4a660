"""What the demonstration's table says of one file in one runtime, each number measured on the spot."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aps_deploy.images import ImageSet
from aps_deploy.runtimes import Session, open_session, predict_logits
from aps_deploy.verification import Consistency, ShiftSet, measure_consistency

_BATCH_SIZE = 64
_LATENCY_RUNS = 15


@dataclass(frozen=True)
class Workload:
    """What a runtime is asked to do.

    Attributes:
        data: labelled images for accuracy and parity.
        shifted: float32 (N, 3, H, W), the images that are shifted.
        shifts: the shifts each of those is tried on.
    """

    data: ImageSet
    shifted: npt.NDArray[np.float32]
    shifts: ShiftSet


@dataclass(frozen=True)
class Measurement:
    """One line of the table.

    Attributes:
        model: name of the network.
        form: how the file states its selection, or ``checkpoint``.
        runtime: what ran it.
        device: where, ``cpu`` or ``cuda``.
        num_images: images behind accuracy and parity.
        accuracy_percent: share classified right.
        consistency: agreement under the shifts.
        parity: largest absolute difference of a logit to the PyTorch network.
        latency_ms: median time for one image, in milliseconds.
        verified: whether ``verify`` passed.
    """

    model: str
    form: str
    runtime: str
    device: str
    num_images: int
    accuracy_percent: float
    consistency: Consistency
    parity: float
    latency_ms: float
    verified: bool


def measure(
    path: Path | str,
    *,
    model: str,
    form: str,
    runtime: str,
    workload: Workload,
    expected: npt.NDArray[np.float32],
    verified: bool,
    progress: Callable[[str, int, int], None] | None = None,
) -> Measurement:
    """Return the line of one file in one runtime.

    Args:
        path: the file, or a checkpoint.
        model: name for the table.
        form: name for the table.
        runtime: see `open_session`.
        workload: images and shifts.
        expected: (N, K) logits of the PyTorch network that the file was made from, for the images of the workload.
        verified: passed through.
        progress: told what is being done.
    """
    data = workload.data
    assert data.labels is not None
    with open_session(path, runtime=runtime) as session:
        device = session.device
        logits = predict_logits(session, data.images, batch_size=_BATCH_SIZE)
        consistency = measure_consistency(
            session,
            workload.shifted,
            workload.shifts,
            batch_size=_BATCH_SIZE,
            progress=progress,
        )
        latency_ms = _latency_ms(session, data.images[:1])
    return Measurement(
        model=model,
        form=form,
        runtime=runtime,
        device=device,
        num_images=len(data),
        accuracy_percent=100 * float((logits.argmax(axis=1) == data.labels).mean()),
        consistency=consistency,
        parity=float(np.abs(logits - expected).max()),
        latency_ms=latency_ms,
        verified=verified,
    )


def reference_logits(checkpoint: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the logits (N, K) of a checkpoint for images (N, 3, H, W), from PyTorch on the CPU in float32."""
    with open_session(checkpoint, runtime="torch", device="cpu") as reference:
        return predict_logits(reference, images, batch_size=_BATCH_SIZE)


def _latency_ms(session: Session, image: npt.NDArray[np.float32]) -> float:
    session.run(image)
    times = []
    for _ in range(_LATENCY_RUNS if session.runtime != "onnx-reference" else 3):
        start = time.perf_counter()
        session.run(image)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)
