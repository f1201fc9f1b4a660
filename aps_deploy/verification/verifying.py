"""Compares a shipped file with the float32 model it came from, and certifies what it found.

The shipped bytes themselves run: selection and parity once over all images, consistency under every shift, batches on
a few. What is expensive runs in the file's own runtime only; the reference sees every image once.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aps_deploy.errors import InputError, known_name
from aps_deploy.files import sha256_of
from aps_deploy.verification.certificate import Certificate
from aps_deploy.verification.comparing import Images, Progress
from aps_deploy.verification.crop_shifts import Scene
from aps_deploy.verification.declaration import promises
from aps_deploy.verification.gates import PRECISIONS, resolve_gates
from aps_deploy.verification.instrument import load_inlined
from aps_deploy.verification.layer_precision import file_precision, judged_precision, layer_precisions
from aps_deploy.verification.ledger import Ledger
from aps_deploy.verification.reference import Reference, load_reference
from aps_deploy.verification.shifts import ShiftSet, shift_set
from aps_deploy.verification.steps import Labels, Run
from aps_deploy.verification.worst_case import WorstCase

if TYPE_CHECKING:
    import torch

    from aps_deploy.runtimes import Session

DEFAULT_BATCH_SIZE = 64


def verify(
    file: str | os.PathLike[str],
    reference: str | os.PathLike[str] | torch.nn.Module,
    images: Images,
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
) -> Certificate:
    """Return the certificate of ``file``: whether it answers as ``reference`` does, and alike under shifts.

    Args:
        file: an ONNX file, a checkpoint or a packaged name.
        reference: the checkpoint it was made from, or the network itself.
        images: float32 (N, 3, H, W), preprocessed as the file says.
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

    Raises:
        InputError: the file, reference, images, shifts or gates cannot be used, or the reference is of another
            architecture.
        ApsError: the runtime failed.
    """
    images, labels = _checked_images(images, labels)
    if precision is not None:
        known_name(precision, PRECISIONS, "precision")
    judge = load_reference(reference)
    faults = _byte_faults(file)
    with _open(file, runtime, device, intact=not faults) as session:
        _check_same_architecture(session, judge)
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
        graph = load_inlined(Path(file)) if session.runtime != "torch" else None
        layers = () if graph is None else layer_precisions(graph)
        judged = judged_precision(session.metadata.precision, layers)
        run = Run(
            session=session,
            graph=graph,
            layers=layers,
            asked_precision=precision,
            reference=judge,
            images=images,
            labels=labels,
            shifts=chosen,
            ledger=Ledger(resolve_gates(judged, session.runtime, session.device, gates)),
            batch_size=batch_size,
            seed=seed,
            progress=progress,
            scene=scene,
        )
        run.check_file(file, faults)
        if run.worst_case is not None and keep_worst_case is not None:
            about = {"file": Path(file).name, "file_sha256": _file_hash(file), **run.worst_case.about}
            keep_worst_case(dataclasses.replace(run.worst_case, about=about))
        return _certificate(file, run, dict(gates or {}))


def _checked_images(images: Images, labels: Labels | None) -> tuple[Images, Labels | None]:
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.float32:
        raise InputError(
            f"images of shape {images.shape} and dtype {images.dtype} are not accepted; give float32 (N, 3, H, W)."
        )
    if len(images) == 0:
        raise InputError("there are no images to verify with; give at least one.")
    if not np.isfinite(images).all():
        raise InputError("the images hold NaN or infinite values; give finite, preprocessed images.")
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
    from aps_deploy.runtimes import check_sidecar, file_kind

    if file_kind(file) != "onnx" or not Path(file).is_file():
        return ()
    try:
        check_sidecar(file)
    except InputError as error:
        return (str(error),)
    return ()


def _open(file: str | os.PathLike[str], runtime: str | None, device: str | None, *, intact: bool) -> Session:
    from aps_deploy.runtimes import open_session

    if intact:
        return open_session(file, runtime=runtime, device=device)
    # A session refuses bytes that are not those of the export. Here they are a finding, and the rest is still measured.
    from aps_deploy.runtimes.onnx_files import load_onnx

    return open_session(load_onnx(file), runtime=runtime, device=device)


def _check_same_architecture(session: Session, reference: Reference) -> None:
    metadata = session.metadata
    if not metadata.is_known:
        return
    ours = (metadata.architecture, metadata.num_classes, metadata.num_selections)
    theirs = (reference.architecture, reference.num_classes, len(reference.selection_layers))
    if ours != theirs:
        words = "{} with {} classes and {} selections"
        raise InputError(
            f"{session.source} is {words.format(*ours)}, but the reference {reference.name} is "
            f"{words.format(*theirs)}; give the checkpoint the file was made from."
        )


def _certificate(file: str | os.PathLike[str], run: Run, overrides: dict[str, float | None]) -> Certificate:
    session, metadata = run.session, run.session.metadata
    digest = hashlib.sha256(np.ascontiguousarray(run.images).tobytes()).hexdigest()
    return Certificate(
        file={
            "name": Path(file).name,
            "sha256": _file_hash(file),
            "architecture": metadata.architecture,
            "precision": metadata.precision,
            "precision_found": file_precision(run.layers),
            "polyphase": metadata.polyphase,
            "checkpoint_sha256": metadata.checkpoint_sha256,
            "declared": promises(metadata) if metadata.is_known else None,
        },
        reference={
            "name": Path(run.reference.name).name,
            "sha256": run.reference.sha256,
            "architecture": run.reference.architecture,
            "promised": promises(run.reference.promised),
            "is_named_by_file": metadata.checkpoint_sha256 == run.reference.sha256,
        },
        checks=tuple(run.ledger.checks),
        counts={"images": len(run.images), "shifts": len(run.shifts), **run.counts},
        environment={
            "runtime": session.runtime,
            "device": session.device,
            "providers": list(session.providers),
            "platform": f"{platform.system()} {platform.machine()}",
            "versions": _versions(),
        },
        data={
            "num_images": len(run.images),
            "height": run.images.shape[2],
            "width": run.images.shape[3],
            "sha256": digest,
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


def _versions() -> dict[str, str]:
    import aps_deploy

    versions = {"aps_deploy": aps_deploy.__version__, "python": platform.python_version()}
    for package in ("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
