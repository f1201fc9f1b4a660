"""`aps-deploy verify`: files and a folder of images in, a certificate on disk out; with it a report for people."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aps_deploy.errors import InputError
from aps_deploy.files import sha256_of
from aps_deploy.verification.certificate import Certificate, certificate_path
from aps_deploy.verification.commands import verify_command
from aps_deploy.verification.comparing import Progress
from aps_deploy.verification.crop_shifts import load_scene
from aps_deploy.verification.judging import rejudge
from aps_deploy.verification.outputs import Outputs, worst_case_path
from aps_deploy.verification.reference import load_reference
from aps_deploy.verification.verifying import DEFAULT_BATCH_SIZE, verify
from aps_deploy.verification.worst_case import WorstCase

if TYPE_CHECKING:
    from aps_deploy.images import ImageSet

_CONSISTENCY = ("top1_consistency", "identical_shifts", "non_finite_pairs")
"""Gates whose failure leaves the worst case beside the certificate."""

MAX_DEFAULT_IMAGES = 512
"""Images used at most where no number is asked for."""


def verify_path(
    file: str | os.PathLike[str],
    reference: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    *,
    num_images: int | None = None,
    shifts: str | int = "group",
    budget: int | None = None,
    gates: Mapping[str, float | None] | None = None,
    precision: str | None = None,
    runtime: str | None = None,
    device: str | None = None,
    output: str | os.PathLike[str] | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    seed: int = 0,
    progress: Progress | None = None,
    report: str | os.PathLike[str] | None = None,
    junit: str | os.PathLike[str] | None = None,
    worst_case: str | os.PathLike[str] | None = None,
) -> Certificate:
    """Verify ``file`` on the images of a folder and write its certificate, also where it failed.

    Args:
        file: an ONNX file, a checkpoint or a packaged name.
        reference: the checkpoint it was made from.
        data_dir: folder of images, with or without class folders.
        num_images: how many of them; None takes all, at most `MAX_DEFAULT_IMAGES`.
        shifts: ``group``, ``all`` or a number of shifts.
        budget: pairs of an image and a shift that are tried at most, see `verify`.
        gates: overrides, see `gates.parse_gates`.
        precision: what every layer must compute in, see `verify`.
        runtime: see `open_session`.
        device: see `open_session`.
        output: where the certificate is written; None takes ``<stem>.certificate.json`` beside the file.
        batch_size: images per call.
        seed: of the choice of images, of sampled shifts and of the authors' protocol.
        progress: called with what is being done, how much is done and how much there is.
        report: where an HTML report is written; None writes none.
        junit: where a JUnit file is written; None writes none.
        worst_case: where the image and the shift that changed most are written; None takes
            ``<stem>.worst-case.npz`` beside the certificate, and only where consistency failed.

    Returns:
        The certificate; its ``exit_code`` is 0 or 1.

    Raises:
        InputError: an input is missing, unreadable or does not fit the others, or the certificate would take the
            place of the file, of its sidecar or of the reference.
        ApsError: the runtime failed, or the certificate cannot be written.
    """
    from aps_deploy.images import load_folder
    from aps_deploy.runtimes import file_kind
    from aps_deploy.runtimes.metadata import ModelMetadata

    target = certificate_path(file) if output is None else Path(output)
    places = [None if path is None else Path(path) for path in (report, junit, worst_case)]
    outputs = Outputs(target, *places)
    _check_places(outputs, file, reference)
    judge = load_reference(reference)
    preprocessing, class_names = judge.preprocessing, judge.class_names
    if file_kind(file) == "onnx":
        metadata = ModelMetadata.from_onnx(file)
        # The shipped file is served with its own preprocessing, so that is what it must pass with.
        preprocessing = metadata.preprocessing or preprocessing
        class_names = metadata.class_names or class_names
    if preprocessing is None:
        raise InputError(
            f"neither {file} nor {reference} says how images are preprocessed; export the file with aps-deploy."
        )
    limit = MAX_DEFAULT_IMAGES if num_images is None else num_images
    data = load_folder(
        data_dir,
        preprocessing,
        limit=limit,
        seed=seed,
        class_names=class_names,
        num_classes=judge.promised.num_classes,
    )
    cases: list[WorstCase] = []
    certificate = verify(
        file,
        judge.model,
        data.images,
        data.labels,
        shifts=shifts,
        budget=budget,
        scene=load_scene(data.paths, preprocessing),
        gates=gates,
        precision=precision,
        runtime=runtime,
        device=device,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
        keep_worst_case=cases.append,
    )
    certificate = _with_worst_case(
        certificate, cases, outputs.worst_case, worst_case_path(target), data, Path(data_dir).expanduser()
    )
    command = verify_command(certificate, file, reference, data_dir, shifts)
    certificate = dataclasses.replace(certificate, command=command)
    outputs.write(certificate)
    return certificate


def _check_places(outputs: Outputs, file: str | os.PathLike[str], reference: str | os.PathLike[str]) -> None:
    # Said before minutes of measuring, not after.
    from aps_deploy.runtimes import sidecar_path

    outputs.check(
        {
            "the verified file": Path(file),
            "the document that export wrote beside the verified file": sidecar_path(file),
            "the reference": Path(reference),
        }
    )


def _with_worst_case(
    certificate: Certificate, cases: list[WorstCase], place: Path | None, by_default: Path, data: ImageSet, root: Path
) -> Certificate:
    """Write the worst case where it was asked for or consistency failed, and return the certificate that says so."""
    told = certificate.details.get("worst_case")
    if told is None or not cases:
        return certificate
    told = {**told, "image_file": data.paths[told["image"]].relative_to(root).as_posix()}
    if place is None and any(check.name in _CONSISTENCY for check in certificate.failed_checks):
        place = by_default
    if place is not None:
        cases[-1].save(place)
        told["file"] = {"name": place.name, "sha256": sha256_of(place)}
    return dataclasses.replace(certificate, details={**certificate.details, "worst_case": told})


def judge_path(
    source: str | os.PathLike[str],
    *,
    gates: Mapping[str, float | None] | None = None,
    output: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    junit: str | os.PathLike[str] | None = None,
) -> Certificate:
    """Judge a saved certificate by other limits, without running anything, and write what is asked for.

    Args:
        source: a certificate that `verify_path` wrote.
        gates: overrides, see `judging.rejudge`; without any the verdict stays and only the outputs are made.
        output: where the new certificate is written; None writes none.
        report: where an HTML report is written; None writes none.
        junit: where a JUnit file is written; None writes none.

    Returns:
        The certificate as judged now; its ``exit_code`` is 0 or 1.

    Raises:
        InputError: the certificate cannot be read or was damaged, an output would take its place, or a gate has no
            measurement in it.
        ApsError: an output cannot be written.
    """
    outputs = Outputs(*(None if path is None else Path(path) for path in (output, report, junit)))
    outputs.check({"the certificate that is judged": Path(source)})
    certificate = Certificate.from_json(source)
    if gates:
        certificate = rejudge(certificate, gates, source=Path(source).name, sha256=sha256_of(source))
    outputs.write(certificate)
    return certificate
