"""The probe as Python code calls it: a model or a file and images in, every operator that breaks the promise out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.files import sha256_of
from aps_deploy.runtimes.session import LOGITS
from aps_deploy.verification.comparing import Images, Progress, roll
from aps_deploy.verification.probe.grids import Offset, local_offsets
from aps_deploy.verification.probe.reasons import differing_percent, largest_difference, reason_for
from aps_deploy.verification.probe.result import ProbeFinding, ProbeResult
from aps_deploy.verification.probe.states import STILL, Array, image_state, same_bits
from aps_deploy.verification.probe.units import ProbeRuntime
from aps_deploy.verification.probe.walking import Failure, Walk

if TYPE_CHECKING:
    import onnx

    from aps_deploy.runtimes import Session
    from aps_deploy.runtimes.inputs import InputSpec


def probe_model(
    model: onnx.ModelProto,
    session: Session,
    images: Images,
    *,
    shift: Offset | None = None,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> ProbeResult:
    """Return every operator of ``model`` whose output, for moved inputs, is not the moved output, bit for bit.

    Args:
        model: without model-local functions, see `instrument.load_inlined`.
        session: the same file, open in ONNX Runtime on the CPU or in the ReferenceEvaluator; the pieces run in its
            runtime, and the whole file is tried in it as well.
        images: float32 (N, 3, H, W), preprocessed; each is tried alone, at least one.
        shift: (dy, dx) in pixels of the image; None tries every piece with a few offsets of its own map.
        num_threads: threads of a piece in ONNX Runtime; None leaves its choice.
        progress: called after every image.

    Raises:
        InputError: there are no images, the file does not take them, or the runtime is neither of the two.
        ApsError: a piece of the graph cannot be run alone.
    """
    if len(images) == 0:
        raise InputError("there are no images to probe with; give at least one.")
    runtime = _runtime_of(session)
    walk = Walk(model, session.input_spec.name, runtime, num_threads)
    scores = {entry.scores: entry.limb_bits for entry in session.metadata.selections}
    found: dict[tuple[int | str, ...], ProbeFinding] = {}
    checked = 0
    for position, image in enumerate(images):
        one = image[None]
        before = session.run(one)[LOGITS]  # refuses images that the file does not take
        on_image: dict[tuple[int | str, ...], ProbeFinding] = {}
        for failure in walk.failures(_prepared(one, session.input_spec), shift):
            on_image[(*failure.nodes, failure.output)] = _finding(walk, failure, scores)
        if not on_image and walk.states[LOGITS if LOGITS in walk.outputs else walk.outputs[0]] == STILL:
            on_image.update(_in_the_whole(session, one, before, shift))
        for key, finding in on_image.items():
            seen = found.get(key)
            found[key] = finding if seen is None else dataclasses.replace(seen, images=seen.images + 1)
        checked = max(checked, walk.num_checked)
        if progress is not None:
            progress("probe", position + 1, len(images))
    ordered = sorted(found.items(), key=lambda item: (isinstance(item[0][0], str), item[0][0]))
    return ProbeResult(
        findings=tuple(finding for _, finding in ordered),
        num_nodes=len(walk.nodes),
        num_checked=checked,
        num_images=len(images),
        runtime=runtime,
        shift=shift,
    )


def probe_file(
    file: str | os.PathLike[str],
    images: Images,
    *,
    runtime: str | None = None,
    shift: Offset | None = None,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> ProbeResult:
    """Return the probe of any ONNX file, of this project or not; see `probe_model` for the arguments.

    Args:
        file: the ONNX file.
        images: float32 (N, 3, H, W), preprocessed as the file wants them.
        runtime: ``onnxruntime`` (default) or ``onnx-reference``.
        shift: see `probe_model`.
        num_threads: see `probe_model`.
        progress: see `probe_model`.

    Raises:
        InputError: the file is missing, is no ONNX file or does not take the images.
        ApsError: a piece of the graph cannot be run alone.
    """
    from aps_deploy.runtimes import open_session
    from aps_deploy.verification.instrument import load_inlined

    check_probed_kind(file)
    with open_session(file, runtime=runtime, device="cpu", num_threads=num_threads) as session:
        result = probe_model(
            load_inlined(Path(file)), session, images, shift=shift, num_threads=num_threads, progress=progress
        )
    about = {"file": Path(file).name, "sha256": sha256_of(file), "height": images.shape[2], "width": images.shape[3]}
    return dataclasses.replace(result, about=about)


def _runtime_of(session: Session) -> ProbeRuntime:
    if session.runtime == "onnx-reference":
        return "onnx-reference"
    if session.runtime == "onnxruntime" and session.device == "cpu":
        return "onnxruntime"
    raise InputError(
        f"the probe runs pieces of the graph in onnxruntime on the CPU or in onnx-reference, not in {session.runtime} "
        f"on {session.device}."
    )


def _prepared(image: Images, spec: InputSpec) -> Array:
    converted: npt.NDArray[np.generic] = np.ascontiguousarray(image, dtype=spec.dtype)
    # A file with a fixed batch gets the image in every slot.
    return converted if spec.batch is None else np.repeat(converted, spec.batch, axis=0)


def _finding(walk: Walk, failure: Failure, scores: Mapping[str, int | None]) -> ProbeFinding:
    kind, reason = reason_for(walk, failure, scores)
    node = walk.nodes[failure.nodes[0]]
    return ProbeFinding(
        node=node.name or node.output[0],
        op_type=node.op_type,
        operators=len(failure.nodes),
        kind=kind,
        reason=reason,
        output=failure.output,
        input_shapes=tuple(walk.arrays[name].shape for name in failure.inputs),
        output_shape=failure.expected.shape,
        shift=failure.offset,
        max_abs_difference=largest_difference(failure),
        differing_percent=differing_percent(failure),
    )


def _in_the_whole(
    session: Session, image: Images, before: Array, shift: Offset | None
) -> dict[tuple[int | str, ...], ProbeFinding]:
    """Return a finding if the whole file's logits change although no piece of it alone does."""
    grid = image_state(image.shape).grid
    for offset in local_offsets(grid) if shift is None else (shift,):
        after = session.run(roll(image, offset))[LOGITS]
        if not same_bits(before, after):
            failure = Failure((), LOGITS, (), offset, (), before, after)
            reason = f"no operator does alone; {session.runtime} joins operators, and the joined ones do not move along"
            finding = ProbeFinding(
                node="the file",
                op_type="",
                operators=0,
                kind="whole",
                reason=reason,
                output=LOGITS,
                input_shapes=(image.shape,),
                output_shape=before.shape,
                shift=offset,
                max_abs_difference=largest_difference(failure),
                differing_percent=differing_percent(failure),
            )
            return {("whole",): finding}
    return {}


def check_probed_kind(file: str | os.PathLike[str]) -> None:
    """Do nothing where a file is of the kind that can be probed, judged by its name.

    Raises:
        InputError: it is a checkpoint or an engine.
    """
    from aps_deploy.runtimes import file_kind

    kind = file_kind(file)
    if kind == "plan":
        raise InputError(
            f"the probe reads the operators of ONNX files, and {file} is an engine; give the ONNX file it "
            "was made from."
        )
    if kind == "checkpoint":
        raise InputError(f"the probe reads the operators of ONNX files, and {file} is a checkpoint; export it first.")
