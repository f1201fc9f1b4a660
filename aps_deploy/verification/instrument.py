"""The file's own component scores, read by adding them to the outputs of a copy of the graph.

The copy is measured, never shipped: more outputs can change what a runtime fuses. `verify` therefore certifies the
untouched file by its outputs and uses the copy only for the size of the error in the scores.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.batching import ImageSource

if TYPE_CHECKING:
    import onnx

    from aps_deploy.runtimes.metadata import ModelMetadata

# Of one pixel's energy on the scale of exact selection, however it is cut into limbs.
_QUANTISED_BITS = 30


@dataclasses.dataclass(frozen=True)
class MeasuredScores:
    """What the instrumented copy computed.

    Attributes:
        scores: per selecting layer (N, s*s) float64.
        indices: (N, L) int64, the copy's choices; equal to the file's where the copy is a faithful one.
    """

    scores: tuple[npt.NDArray[np.float64], ...]
    indices: npt.NDArray[np.int64]


def load_inlined(path: Path) -> onnx.ModelProto:
    """Return the ONNX model with its model-local functions inlined, weights included.

    Raises:
        InputError: the file holds no ONNX model, or its functions are damaged.
    """
    import onnx.inliner

    from aps_deploy.runtimes.onnx_files import load_onnx, one_line

    model = load_onnx(path)
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # the inliner raises whatever its C++ does
        raise InputError(f"the functions in {path} cannot be inlined ({one_line(error)}); export it again.") from error


def add_score_outputs(model: onnx.ModelProto, metadata: ModelMetadata) -> onnx.ModelProto:
    """Return a copy of the inlined ``model`` that also outputs every selection's scores.

    Raises:
        ApsError: the graph has no value of a name that the metadata gives.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    made = {name for node in copy.graph.node for name in node.output}
    present = {value.name for value in copy.graph.output}
    for entry in metadata.selections:
        if entry.scores not in made:
            raise ApsError(
                f"the metadata names {entry.scores!r} as the scores of {entry.layer}, but the graph has no such "
                "value; export the file again."
            )
        if entry.scores not in present:
            # Without a type ONNX Runtime infers it, so one form serves integer and float scores.
            copy.graph.output.append(onnx.ValueInfoProto(name=entry.scores))
    return copy


def measure_scores(
    model: onnx.ModelProto,
    metadata: ModelMetadata,
    images: ImageSource,
    *,
    runtime: str = "onnxruntime",
    device: str | None = "cpu",
    batch_size: int = 64,
) -> MeasuredScores:
    """Return the scores and indices of the inlined ``model`` for images (N, 3, H, W).

    Args:
        model: from `load_inlined`.
        metadata: of the file, with at least one selection.
        images: (N, 3, H, W) float32, preprocessed.
        runtime: the runtime of the session that is being verified, so that its own error is measured.
        device: likewise.
        batch_size: images per call.

    Raises:
        ApsError: the graph lacks a value named in the metadata, or the copy cannot be run.
    """
    from aps_deploy.runtimes import open_session, run_batched

    with open_session(add_score_outputs(model, metadata), runtime=runtime, device=device) as session:
        outputs = run_batched(session, images, batch_size=batch_size)
    return MeasuredScores(
        scores=tuple(whole_scores(outputs[entry.scores], entry.limb_bits) for entry in metadata.selections),
        indices=outputs["polyphase_indices"],
    )


def whole_scores(values: npt.NDArray[Any], limb_bits: int | None) -> npt.NDArray[np.float64]:
    """Return scores (N, s*s) from what the graph holds of them: each a number, or sums of limbs that make it up.

    Args:
        values: (N, s*s), or (N, limbs * s*s) with the highest limbs of all scores first.
        limb_bits: of the file's metadata: a limb is worth ``2**limb_bits`` of the next; None where there are none.
    """
    if limb_bits is None or values.ndim != 2 or values.dtype.kind not in "iu":
        return np.asarray(values, np.float64)
    number = -(-_QUANTISED_BITS // limb_bits)
    if values.shape[1] % number:
        return values.astype(np.float64)  # no such limbs; its shape says so
    limbs = values.astype(np.int64).reshape(len(values), number, -1)
    weights = 1 << (limb_bits * np.arange(number - 1, -1, -1))
    # Whole numbers below 2**53, which a float64 holds.
    return np.asarray((limbs * weights[None, :, None]).sum(axis=1), np.float64)
