"""`aps-deploy verify`: files and a folder of images in, a certificate on disk out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from aps_deploy.errors import InputError
from aps_deploy.verification.certificate import MODEL_SUFFIXES, Certificate, certificate_path
from aps_deploy.verification.comparing import Progress
from aps_deploy.verification.reference import load_reference
from aps_deploy.verification.verifying import DEFAULT_BATCH_SIZE, verify

_NEVER_A_CERTIFICATE = (
    *MODEL_SUFFIXES, ".pt", ".pth", ".tar", ".ckpt", ".bin", ".engine", ".data", ".npz",
)  # fmt: skip

MAX_DEFAULT_IMAGES = 512
"""Images used at most where no number is asked for."""


def verify_path(
    file: str | os.PathLike[str],
    reference: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    *,
    num_images: int | None = None,
    shifts: str | int = "group",
    gates: Mapping[str, float | None] | None = None,
    precision: str | None = None,
    runtime: str | None = None,
    device: str | None = None,
    output: str | os.PathLike[str] | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    seed: int = 0,
    progress: Progress | None = None,
) -> Certificate:
    """Verify ``file`` on the images of a folder and write its certificate, also where it failed.

    Args:
        file: an ONNX file, a checkpoint or a packaged name.
        reference: the checkpoint it was made from.
        data_dir: folder of images, with or without class folders.
        num_images: how many of them; None takes all, at most `MAX_DEFAULT_IMAGES`.
        shifts: ``group``, ``all`` or a number of shifts.
        gates: overrides, see `gates.parse_gates`.
        precision: what every layer must compute in, see `verify`.
        runtime: see `open_session`.
        device: see `open_session`.
        output: where the certificate is written; None takes ``<stem>.certificate.json`` beside the file.
        batch_size: images per call.
        seed: of the choice of images, of sampled shifts and of the authors' protocol.
        progress: called with what is being done, how much is done and how much there is.

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
    _check_target(target, file, reference)
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
    data = load_folder(data_dir, preprocessing, limit=limit, seed=seed, class_names=class_names)
    certificate = verify(
        file,
        judge.model,
        data.images,
        data.labels,
        shifts=shifts,
        gates=gates,
        precision=precision,
        runtime=runtime,
        device=device,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    certificate.save(target)
    return certificate


def _check_target(target: Path, file: str | os.PathLike[str], reference: str | os.PathLike[str]) -> None:
    # Said before minutes of measuring, not after.
    from aps_deploy.runtimes import sidecar_path

    advice = "give the name of another file, such as NAME.certificate.json"
    if target.suffix.lower() in _NEVER_A_CERTIFICATE:
        raise InputError(f"cannot write the certificate {target}: {target.suffix} is the suffix of a model; {advice}.")
    taken = {
        "the verified file": Path(file),
        "the document that export wrote beside the verified file": sidecar_path(file),
        "the reference": Path(reference),
    }
    for what, path in taken.items():
        if _is_same_file(target, path):
            raise InputError(f"cannot write the certificate {target}: it is {what}; {advice}.")
    if target.is_dir():
        raise InputError(f"cannot write the certificate {target}: it is a folder; give the name of a file in it.")
    if not target.parent.is_dir():
        raise InputError(f"cannot write the certificate {target}: the folder {target.parent} does not exist.")


def _is_same_file(first: Path, second: Path) -> bool:
    # Both ways: a hard link has another path, and a sidecar that does not exist yet has no file to compare.
    if first.exists() and second.exists() and first.samefile(second):
        return True
    return first.resolve() == second.resolve()
