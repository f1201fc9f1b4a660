"""`aps-deploy verify FILE --probe`: a file and a folder of images in, the probe's result on disk out."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from aps_deploy.errors import InputError
from aps_deploy.preprocessing import Preprocessing
from aps_deploy.verification.certificate import MODEL_SUFFIXES
from aps_deploy.verification.comparing import Images, Progress
from aps_deploy.verification.crashes import refuse_what_crashes
from aps_deploy.verification.probe.probing import check_probed_kind, probe_file
from aps_deploy.verification.probe.result import ProbeResult

DEFAULT_IMAGES = 2
"""Images where no number is asked for: what breaks, breaks on nearly every image."""

_FALLBACK_SIZE = 224
_PLAIN = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
"""Mean and standard deviation for a file that states none: the scale changes no operator's equivariance."""


def probe_path(
    file: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    num_images: int | None = None,
    runtime: str | None = None,
    output: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ProbeResult:
    """Probe ``file`` on the images of a folder and write the result as JSON.

    Args:
        file: any ONNX file that takes images (N, 3, H, W).
        data_dir: folder of images; None takes the packaged ones, resized to the file's input.
        num_images: how many; None takes `DEFAULT_IMAGES`.
        runtime: ``onnxruntime`` (default) or ``onnx-reference``.
        output: where the result is written; None takes ``<stem>.probe.json`` beside the file.
        seed: of the choice of images.
        progress: called with what is being done, how much is done and how much there is.

    Raises:
        InputError: the file or the images cannot be used, or the result would take the place of a model.
        ApsError: a piece of the graph cannot be run, or the result cannot be written.
    """
    target = probe_result_path(file) if output is None else Path(output)
    if target.suffix.lower() in MODEL_SUFFIXES or target.resolve() == Path(file).resolve():
        raise InputError(f"cannot write the probe's result {target}: it is the name of a model; use NAME.probe.json.")
    if target.is_dir() or not target.parent.is_dir():
        raise InputError(f"cannot write the probe's result {target}: give the name of a file in an existing folder.")
    count = DEFAULT_IMAGES if num_images is None else num_images
    images, prepared = _images(file, data_dir, count, seed, runtime)
    result = probe_file(file, images, runtime=runtime, progress=progress)
    result = dataclasses.replace(result, about={**result.about, "preprocessing": prepared, "seed": seed})
    result.save(target)
    return result


def probe_result_path(file: str | os.PathLike[str]) -> Path:
    """Return where the result of a probe is written by default: ``<stem>.probe.json`` beside the file."""
    path = Path(file)
    return path.with_name(f"{path.stem}.probe.json")


def _images(
    file: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None, count: int, seed: int, runtime: str | None
) -> tuple[Images, str]:
    """Return ``count`` images for the file, and in words how they were prepared."""
    from aps_deploy.images import load_folder
    from aps_deploy.packaged import packaged_images
    from aps_deploy.runtimes import open_session

    check_probed_kind(file)
    refuse_what_crashes(file, runtime)
    folder = packaged_images()["cifar10"] if data_dir is None else data_dir
    with open_session(file, runtime=runtime, device="cpu") as session:
        spec, preprocessing = session.input_spec, session.metadata.preprocessing
    height, width = spec.height or spec.width or _FALLBACK_SIZE, spec.width or spec.height or _FALLBACK_SIZE
    if preprocessing is not None and preprocessing.image_size == height == width:
        return load_folder(folder, preprocessing, count, seed).images, "as the file states"
    side = max(height, width)
    plain = Preprocessing(side, side, *_PLAIN)
    images = load_folder(folder, plain, count, seed).images[:, :, :height, :width]
    return images, f"resized to {height}x{width}, mean 0.5 and standard deviation 0.25: the file states nothing"
