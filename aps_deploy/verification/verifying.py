"""Compares a shipped file with the float32 model it came from, and certifies what it found.

The shipped bytes themselves run: selection and parity once over all images, consistency under shifts, batches on
a few. What is expensive runs in the file's own runtime only; the reference sees every image once.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aps_deploy.errors import InputError, known_name
from aps_deploy.files import sha256_of
from aps_deploy.runtimes.opening import file_kind
from aps_deploy.verification.certificate import Certificate
from aps_deploy.verification.comparing import Progress
from aps_deploy.verification.crashes import refuse_what_crashes
from aps_deploy.verification.crop_shifts import Scene
from aps_deploy.verification.declaration import promises
from aps_deploy.verification.digests import ImagesDigest, digest_images
from aps_deploy.verification.gates import PRECISIONS, Gate, resolve_gates
from aps_deploy.verification.instrument import load_inlined
from aps_deploy.verification.layer_precision import judged_precision, layer_precisions, with_kept
from aps_deploy.verification.ledger import Ledger
from aps_deploy.verification.plan_evidence import plan_evidence
from aps_deploy.verification.references.base import Reference
from aps_deploy.verification.references.resolving import resolve_reference
from aps_deploy.verification.references.saved import SavedReference, save_reference
from aps_deploy.verification.shifts import ShiftSet, shift_set
from aps_deploy.verification.steps.checking import check_file
from aps_deploy.verification.steps.declaration import found_precision
from aps_deploy.verification.steps.run import Labels, Run
from aps_deploy.verification.versions import package_versions
from aps_deploy.verification.worst_case import WorstCase

if TYPE_CHECKING:
    import torch

    from aps_deploy.preprocessing import Preprocessing
    from aps_deploy.runtimes import Session
    from aps_deploy.runtimes.batching import ImageSource

DEFAULT_BATCH_SIZE = 64


def verify(
    file: str | os.PathLike[str],
    reference: str | os.PathLike[str] | torch.nn.Module | Reference | None,
    images: ImageSource,
    labels: Labels | None = None,
    *,
    shifts: str | int | ShiftSet = "group",
    budget: int | None = None,
    scene: Scene | None = None,
    gates: Mapping[str, float | None] | None = None,
    precision: str | None = None,
    runtime: str | None = None,
    device: str | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    seed: int = 0,
    progress: Progress | None = None,
    keep_worst_case: Callable[[WorstCase], None] | None = None,
    save_to: str | os.PathLike[str] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Certificate:
    """Return the certificate of ``file``: whether it answers as ``reference`` does, and alike under shifts.

    Without a reference the file alone is measured: under shifts and in batches. Whatever asks for a comparison does
    not apply then, and the certificate says so.

    Args:
        file: an ONNX file, an engine (``.plan``, ``.engine``), a checkpoint or a packaged name.
        reference: the checkpoint it was made from, or the network itself; another ONNX file; saved outputs
            (``.npz``), see `references.saved`; or None.
        images: (N, 3, H, W) float32, preprocessed as the file says: an array, or what gives them in parts.
        labels: int64 (N,), for the accuracies; None leaves them out.
        shifts: ``group``, ``all``, a number of seeded shifts, each of them among the shifts that the reference
            promises (a ``pool_only`` network: even ones), or a `ShiftSet`, which is tried as it is.
        budget: pairs of one image and one shift that are tried at most; of more shifts a seeded part is taken. None
            takes `shifts.DEFAULT_BUDGET` for ``all``, and no limit else.
        scene: a few of the images with what surrounds them, for windows that move over a picture; None pads the
            images, see `crop_shifts`.
        gates: limits that replace the defaults of `gates.GATES`, by name; None as a limit only reports.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``: what every layer of the file must compute in; None takes
            what the file declares.
        runtime: see `open_session`.
        device: see `open_session`.
        batch_size: images per call.
        seed: of the sampled shifts and of the authors' protocol.
        progress: called with what is being done, how much is done and how much there is.
        keep_worst_case: called with the pair of image and shift that changed the answer most, if any was measured.
        save_to: where the reference's answers are written for other machines; None writes none.
        preprocessing: what the images were made with, for the saved reference to tell.

    Raises:
        InputError: the file, reference, images, shifts or gates cannot be used, or the reference is of another
            architecture.
        ApsError: the runtime failed.
    """
    images, labels = _checked_images(images, labels)
    if precision is not None:
        known_name(precision, PRECISIONS, "precision")
    faults = _byte_faults(file)
    with _open(file, runtime, device, intact=not faults) as session:
        judge = resolve_reference(reference, session.metadata)
        if save_to is not None and judge.kind in ("none", "saved"):
            raise InputError("there is no reference whose answers could be saved; give a checkpoint or an ONNX file.")
        _check_same_architecture(session, judge)
        each = save_to is not None or isinstance(judge, SavedReference)
        digest = digest_images(images, each=each, batch_size=batch_size, progress=progress)
        if isinstance(judge, SavedReference):
            judge = judge.for_images(digest, images.shape)
        chosen = shift_set(
            shifts,
            height=images.shape[2],
            width=images.shape[3],
            size_divisor=judge.total_stride,
            seed=seed,
            step=judge.shift_step,
            budget=budget,
            num_images=len(images),
        )
        graph = load_inlined(Path(file)) if is_graph(file) else None
        plan = plan_evidence(file) if file_kind(file) == "plan" else None
        layers = () if plan is None else plan.layers
        if graph is not None:
            layers = with_kept(layer_precisions(graph), session.metadata.kept_fp32)
        judged = judged_precision(session.metadata.precision, layers)
        run = Run(
            file=file,
            session=session,
            graph=graph,
            layers=layers,
            asked_precision=precision,
            reference=judge,
            images=images,
            labels=labels,
            shifts=chosen,
            ledger=Ledger(_gates(session, judge, judged, gates)),
            batch_size=batch_size,
            seed=seed,
            progress=progress,
            scene=scene,
            plan=plan,
        )
        check_file(run, faults)
        if run.worst_case is not None and keep_worst_case is not None:
            about = {"file": Path(file).name, "file_sha256": _file_hash(file), **run.worst_case.about}
            keep_worst_case(dataclasses.replace(run.worst_case, about=about))
        if save_to is not None and run.own_trace is not None:
            save_reference(
                save_to, judge, run.own_trace, digest, shape=images.shape, preprocessing=preprocessing, seed=seed
            )
        return certificate_of(run, dict(gates or {}), digest)


def is_graph(file: str | os.PathLike[str]) -> bool:
    """Return whether the file is an ONNX graph, and not a checkpoint or an engine."""
    return file_kind(file) == "onnx"


def _gates(
    session: Session, judge: Reference, precision: str | None, overrides: Mapping[str, float | None] | None
) -> dict[str, Gate]:
    is_promised = session.metadata.is_known or judge.promised.is_known
    return resolve_gates(precision, session.runtime, session.device, overrides, is_promised=is_promised)


def _checked_images(images: ImageSource, labels: Labels | None) -> tuple[ImageSource, Labels | None]:
    # Whether the values are finite is seen when they are hashed.
    if not hasattr(images, "shape"):
        images = np.asarray(images)  # a list, whatever its type says
    dtype = getattr(images, "dtype", np.dtype(np.float32))
    if len(images.shape) != 4 or images.shape[1] != 3 or dtype != np.float32:
        raise InputError(
            f"images of shape {images.shape} and dtype {dtype} are not accepted; give float32 (N, 3, H, W)."
        )
    if len(images) == 0:
        raise InputError("there are no images to verify with; give at least one.")
    if labels is None:
        return images, None
    labels = np.asarray(labels)
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"labels of shape {labels.shape} and dtype {labels.dtype} do not fit {len(images)} images; "
            "give one whole number per image."
        )
    return images, labels.astype(np.int64)


def _byte_faults(file: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return what is wrong with the file's bytes according to the sidecar beside it; empty without a sidecar."""
    from aps_deploy.runtimes import check_sidecar

    if file_kind(file) != "onnx" or not Path(file).is_file():
        return ()
    try:
        check_sidecar(file)
    except InputError as error:
        return (str(error),)
    return ()


def _open(file: str | os.PathLike[str], runtime: str | None, device: str | None, *, intact: bool) -> Session:
    from aps_deploy.runtimes import open_session

    refuse_what_crashes(file, runtime)
    if intact:
        return open_session(file, runtime=runtime, device=device)
    # A session refuses bytes that are not those of the export. Here they are a finding, and the rest is still measured.
    from aps_deploy.runtimes.onnx_files import load_onnx

    return open_session(load_onnx(file), runtime=runtime, device=device)


def why_not_opened(file: str | os.PathLike[str], runtime: str, device: str) -> str | None:
    """Return why a file cannot be verified in a runtime on a device, or None where it can."""
    try:
        with _open(file, runtime, device, intact=not _byte_faults(file)):
            return None
    except InputError as error:
        return str(error)


def _check_same_architecture(session: Session, reference: Reference) -> None:
    metadata, promised = session.metadata, reference.promised
    if not metadata.is_known or not promised.is_known:
        return
    ours = (metadata.architecture, metadata.num_classes, metadata.num_selections)
    theirs = (promised.architecture, promised.num_classes, promised.num_selections)
    if ours != theirs:
        words = "{} with {} classes and {} selections"
        raise InputError(
            f"{session.source} is {words.format(*ours)}, but the reference {reference.name} is "
            f"{words.format(*theirs)}; give the checkpoint the file was made from."
        )


def certificate_of(run: Run, overrides: dict[str, float | None], digest: ImagesDigest) -> Certificate:
    """Return the certificate of a run that is over."""
    session, metadata = run.session, run.session.metadata
    return Certificate(
        file={
            "name": Path(run.file).name,
            "sha256": _file_hash(run.file),
            "architecture": metadata.architecture,
            "precision": metadata.precision,
            "precision_found": found_precision(run),
            "kept_fp32": list(metadata.kept_fp32),
            "polyphase": metadata.polyphase,
            "checkpoint_sha256": metadata.checkpoint_sha256,
            "calibration": metadata.calibration,
            "git_revision": metadata.git_revision,
            "declared": promises(metadata) if metadata.is_known else None,
        },
        reference=_told(run.reference, metadata.checkpoint_sha256),
        checks=tuple(run.ledger.checks),
        counts={"images": len(run.images), "shifts": len(run.shifts), **run.counts},
        environment={
            "runtime": session.runtime,
            "device": session.device,
            "providers": list(session.providers),
            "platform": f"{platform.system()} {platform.machine()}",
            "versions": package_versions(),
        },
        data={
            "num_images": len(run.images),
            "height": run.images.shape[2],
            "width": run.images.shape[3],
            "sha256": digest.sha256,
            "labelled": run.labels is not None,
            "seed": run.seed,
            "batch_size": run.batch_size,
        },
        shift_set={**run.shifts.to_dict(), "description": run.shifts.describe()},
        overrides=overrides,
        details=run.details,
        limits={name: gate.limit for name, gate in run.ledger.gates.items()},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _file_hash(file: str | os.PathLike[str]) -> str:
    if Path(file).is_file():
        return sha256_of(file)
    from aps_deploy.models import locate_checkpoint

    return sha256_of(locate_checkpoint(file))


def _told(reference: Reference, named_by_file: str | None) -> dict[str, Any]:
    """Return what a certificate tells of the reference."""
    nothing = reference.kind == "none"
    promised = promises(reference.promised) if reference.promised.is_known and not nothing else None
    return {
        "kind": reference.kind,
        "name": None if nothing else Path(reference.name).name,
        "sha256": reference.sha256,
        "architecture": None if nothing else reference.architecture,
        "promised": promised,
        "is_named_by_file": reference.sha256 is not None and named_by_file == reference.sha256,
        "saved": reference.told() if isinstance(reference, SavedReference) else None,
    }
