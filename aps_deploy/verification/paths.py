"""`aps-deploy verify`: files and a folder of images in, a certificate on disk out; with it a report for people."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aps_deploy.files import sha256_of
from aps_deploy.verification.certificate import Certificate, certificate_path
from aps_deploy.verification.commands import verify_command
from aps_deploy.verification.comparing import Progress
from aps_deploy.verification.crop_shifts import load_scene
from aps_deploy.verification.digests import digest_images
from aps_deploy.verification.judging import rejudge
from aps_deploy.verification.outputs import Outputs, worst_case_path
from aps_deploy.verification.preparing import FileFacts, Preparation, facts_of
from aps_deploy.verification.references.base import Reference
from aps_deploy.verification.references.resolving import resolve_reference
from aps_deploy.verification.references.saved import SavedReference, save_reference
from aps_deploy.verification.verifying import DEFAULT_BATCH_SIZE, verify
from aps_deploy.verification.worst_case import WorstCase

if TYPE_CHECKING:
    from aps_deploy.image_stream import StreamedImages
    from aps_deploy.images import ImageListing
    from aps_deploy.preprocessing import Preprocessing

_CONSISTENCY = ("top1_consistency", "identical_shifts", "non_finite_pairs")
"""Gates whose failure leaves the worst case beside the certificate."""

MAX_DEFAULT_IMAGES = 512
"""Images used at most where no number is asked for."""


@dataclasses.dataclass(frozen=True)
class PreparedData:
    """The images of a verification.

    Attributes:
        listing: files and labels.
        images: what gives them in parts.
        preprocessing: how they are prepared.
    """

    listing: ImageListing
    images: StreamedImages
    preprocessing: Preprocessing


def verify_path(
    file: str | os.PathLike[str],
    reference: str | os.PathLike[str] | Reference | None,
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
    save_to: str | os.PathLike[str] | None = None,
    preparation: Preparation | None = None,
) -> Certificate:
    """Verify ``file`` on the images of a folder and write its certificate, also where it failed.

    The images are decoded in parts and never held as one float32 array, see `image_stream`.

    Args:
        file: an ONNX file, an engine (``.plan``, ``.engine``), a checkpoint or a packaged name.
        reference: the checkpoint it was made from, another ONNX file, saved outputs (``.npz``), or None.
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
        save_to: where the reference's answers are written, for machines without it; None writes none.
        preparation: how images are prepared, where the file does not say or something else is wanted.

    Returns:
        The certificate; its ``exit_code`` is 0 or 1.

    Raises:
        InputError: an input is missing, unreadable or does not fit the others, or the certificate would take the
            place of the file, of its sidecar or of the reference.
        ApsError: the runtime failed, or the certificate cannot be written.
    """
    target = certificate_path(file) if output is None else Path(output)
    places = [None if path is None else Path(path) for path in (report, junit, worst_case, save_to)]
    outputs = Outputs(target, *places)
    _check_places(outputs, file, reference)
    preparation = preparation or Preparation()
    facts = facts_of(file)
    judge = resolve_reference(reference, facts.metadata)
    data = prepare_data(data_dir, facts, judge, preparation, name=os.fspath(file), num_images=num_images, seed=seed)
    cases: list[WorstCase] = []
    certificate = verify(
        file,
        judge,
        data.images,
        data.listing.labels,
        shifts=shifts,
        budget=budget,
        scene=load_scene(data.listing.paths, data.preprocessing),
        gates=gates,
        precision=precision,
        runtime=runtime,
        device=device,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
        keep_worst_case=cases.append,
        save_to=save_to,
        preprocessing=data.preprocessing,
    )
    certificate = _with_worst_case(
        certificate, cases, outputs.worst_case, worst_case_path(target), data.listing, Path(data_dir).expanduser()
    )
    command = verify_command(certificate, file, _source(reference), data_dir, shifts, preparation)
    certificate = dataclasses.replace(certificate, command=command)
    outputs.write(certificate)
    return certificate


def prepare_data(
    data_dir: str | os.PathLike[str],
    facts: FileFacts,
    judge: Reference,
    preparation: Preparation,
    *,
    name: str,
    num_images: int | None = None,
    seed: int = 0,
) -> PreparedData:
    """Return the images of a folder as a verification takes them.

    Args:
        data_dir: folder of images, with or without class folders.
        facts: what the file says.
        judge: the reference, which is asked where the file says nothing.
        preparation: what the caller says.
        name: of the file, for messages.
        num_images: how many of them; None takes all, at most `MAX_DEFAULT_IMAGES`.
        seed: of the choice of images.

    Raises:
        InputError: the folder cannot be used, or nothing says how its images are prepared.
    """
    from aps_deploy.image_stream import StreamedImages
    from aps_deploy.images import ImageListing, list_folder

    metadata = facts.metadata
    # The shipped file is served with its own preprocessing, so that is what it must pass with.
    preprocessing = preparation.resolve(metadata.preprocessing or judge.preprocessing, facts.side, name)
    class_names = metadata.class_names or judge.class_names
    num_classes = judge.num_classes or facts.num_classes
    listing = list_folder(
        data_dir,
        limit=MAX_DEFAULT_IMAGES if num_images is None else num_images,
        seed=seed,
        class_names=class_names,
        num_classes=num_classes,
    )
    if class_names is None and num_classes is None:
        # Nobody knows how many classes there are, so nobody can tell what the folders' positions mean.
        listing = ImageListing(listing.paths, None, None)
    return PreparedData(listing, StreamedImages(listing.paths, preprocessing), preprocessing)


def save_reference_path(
    reference: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    save_to: str | os.PathLike[str],
    *,
    num_images: int | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    seed: int = 0,
    progress: Progress | None = None,
    preparation: Preparation | None = None,
) -> int:
    """Write a reference's answers to the images of a folder, without verifying a file, and return how many they are.

    Args:
        reference: a checkpoint, a packaged name or an ONNX file.
        data_dir: folder of images.
        save_to: file to write, ending in ``.npz``.
        num_images: see `verify_path`.
        batch_size: images per call.
        seed: of the choice of images.
        progress: called with what is being done, how much is done and how much there is.
        preparation: see `verify_path`.

    Raises:
        InputError: an input is missing, unreadable or does not fit the others, or ``save_to`` would take its place.
        ApsError: the reference cannot be run, or the file cannot be written.
    """
    Outputs(None, saved_reference=Path(save_to)).check({"the reference": Path(reference)})
    facts = facts_of(reference)
    judge = resolve_reference(reference, facts.metadata)
    data = prepare_data(
        data_dir,
        facts,
        judge,
        preparation or Preparation(),
        name=os.fspath(reference),
        num_images=num_images,
        seed=seed,
    )
    digest = digest_images(data.images, each=True, batch_size=batch_size, progress=progress)
    trace = judge.trace(data.images, batch_size=batch_size, progress=progress)
    save_reference(save_to, judge, trace, digest, shape=data.images.shape, preprocessing=data.preprocessing, seed=seed)
    return len(data.images)


def _source(reference: str | os.PathLike[str] | Reference | None) -> str | None:
    """Return the reference as it was given on the command line; None where there is none."""
    if reference is None or isinstance(reference, (str, os.PathLike)):
        return None if reference is None else os.fspath(reference)
    if isinstance(reference, SavedReference):
        return os.fspath(reference.path)
    return None if reference.kind == "none" else reference.name


def _check_places(
    outputs: Outputs, file: str | os.PathLike[str], reference: str | os.PathLike[str] | Reference | None
) -> None:
    # Said before minutes of measuring, not after.
    from aps_deploy.runtimes import sidecar_path

    taken = {
        "the verified file": Path(file),
        "the document that export wrote beside the verified file": sidecar_path(file),
    }
    source = _source(reference)
    outputs.check(taken if source is None else {**taken, "the reference": Path(source)})


def _with_worst_case(
    certificate: Certificate,
    cases: list[WorstCase],
    place: Path | None,
    by_default: Path,
    data: ImageListing,
    root: Path,
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
