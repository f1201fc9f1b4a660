"""Moving the image itself, as a camera does: pixels leave at one border and others come in at the opposite one.

Invariance is promised for circular shifts, where nothing is lost. No network is promised to answer alike when the
window moves over a larger picture, so this is measured, for file and reference side by side, and reported as that.

Source of the protocol: the crop shifts in the evaluation code of Chaman and Dokmanic (CVPR 2021), which pads by 3
pixels of the mean colour; see `authors.CIFAR_CROP_PROTOCOL`. There a batch meets two random windows; here every window
is compared with the middle one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.runtimes.batching import Runner, batches
from aps_deploy.verification.comparing import Images, Progress, finite_rows, logits_of
from aps_deploy.verification.shifts import Offset

if TYPE_CHECKING:
    from aps_deploy.preprocessing import Preprocessing

MAX_DISTANCE = 3
"""Farthest a window is moved, in pixels: as far as the authors move it on CIFAR-10."""

CROP_IMAGES = 16
"""Images that are tried at most: the reference takes part, and PyTorch on a CPU is slow."""

_NO_CLASS = -1


@dataclasses.dataclass(frozen=True)
class Scene:
    """Images with what surrounds them.

    Attributes:
        images: float32 (N, 3, H + 2 margin, W + 2 margin), preprocessed.
        margin: how far a window can move from the middle, in pixels.
        kind: ``window``: the surroundings are the picture's own; ``padding``: they are pixels of the mean colour.
    """

    images: Images
    margin: int
    kind: Literal["window", "padding"]

    def window(self, offset: Offset) -> Images:
        """Return the windows (N, 3, H, W) that lie (dy, dx) pixels from the middle."""
        top, left = (self.margin + step for step in offset)
        height, width = (side - 2 * self.margin for side in self.images.shape[2:])
        return np.ascontiguousarray(self.images[:, :, top : top + height, left : left + width])


@dataclasses.dataclass(frozen=True)
class CropShifts:
    """How often the class of the middle window is kept, in percent of images and windows.

    Attributes:
        kind: see `Scene`.
        num_images: images tried.
        num_windows: windows of each, the middle one not counted.
        distances: how far windows were moved, in pixels, along one axis.
        file_percent: of the file, per distance.
        reference_percent: of the reference, per distance; None, as the next two, where none could be run.
        file_top1_percent: of the file, over all distances.
        reference_top1_percent: of the reference, over all distances.
        same_class_percent: images and windows, the middle one among them, to which both give the same class.
    """

    kind: str
    num_images: int
    num_windows: int
    distances: tuple[int, ...]
    file_percent: tuple[float, ...]
    reference_percent: tuple[float, ...] | None
    file_top1_percent: float
    reference_top1_percent: float | None
    same_class_percent: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        document = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in document.items()}


def spread_positions(count: int, most: int = CROP_IMAGES) -> list[int]:
    """Return at most ``most`` positions among ``count`` images, evenly spread: images come class by class."""
    return [int(row) for row in np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))]


def padded_scene(images: Images, margin: int = MAX_DISTANCE) -> Scene:
    """Return images (N, 3, H, W) with a border of zeros, the mean colour of normalised images."""
    border = (margin, margin)
    return Scene(np.pad(images, ((0, 0), (0, 0), border, border)), margin, "padding")


def load_scene(paths: Sequence[str | os.PathLike[str]], preprocessing: Preprocessing) -> Scene | None:
    """Return a few of the pictures with their own surroundings, or None where the preprocessing leaves none.

    Args:
        paths: image files.
        preprocessing: of the network; it leaves surroundings where it crops a larger picture than it keeps.

    Raises:
        InputError: a picture cannot be read.
    """
    from aps_deploy.preprocessing import load_image

    margin = min(MAX_DISTANCE, ((preprocessing.resize or 0) - preprocessing.image_size) // 2)
    if margin < 1:
        return None
    larger = dataclasses.replace(preprocessing, image_size=preprocessing.image_size + 2 * margin)
    chosen = [paths[position] for position in spread_positions(len(paths))]
    return Scene(np.stack([larger.apply(load_image(path)) for path in chosen]), margin, "window")


def measure_crop_shifts(
    file: Runner, reference: Runner | None, scene: Scene, *, batch_size: int = 64, progress: Progress | None = None
) -> CropShifts:
    """Return how both answer when the window moves 1 to ``scene.margin`` pixels up, down, left and right.

    Logits that are not finite name no class: they keep none, and agree with nothing.

    Args:
        file: session of the file.
        reference: the float32 reference; None where there is none that can be run.
        scene: images with their surroundings.
        batch_size: images per call.
        progress: called after every window.

    Raises:
        InputError: there are no images or no margin.
        ApsError: a runner returned no logits.
    """
    if len(scene.images) == 0 or scene.margin < 1:
        raise InputError(f"crop shifts of {len(scene.images)} images by up to {scene.margin} pixels are not defined.")
    distances = tuple(range(1, scene.margin + 1))
    offsets = [(0, 0), *(offset for distance in distances for offset in _windows(distance))]
    runners = (file,) if reference is None else (file, reference)
    classes = np.empty((len(runners), len(offsets), len(scene.images)), np.int64)
    for position, offset in enumerate(offsets):
        window = scene.window(offset)
        for row, runner in enumerate(runners):
            classes[row, position] = _classes(runner, window, batch_size)
        if progress is not None:
            progress("crop windows", position + 1, len(offsets))
    kept = (classes[:, 1:] == classes[:, :1]) & (classes[:, 1:] != _NO_CLASS)
    shares = (100 * kept.reshape(len(runners), len(distances), -1).mean(axis=2)).tolist()
    overall = (100 * kept.mean(axis=(1, 2))).tolist()
    # Alone, the first is compared with itself, and left out below.
    same = (classes[0] == classes[-1]) & (classes[0] != _NO_CLASS)
    return CropShifts(
        kind=scene.kind,
        num_images=len(scene.images),
        num_windows=len(offsets) - 1,
        distances=distances,
        file_percent=tuple(shares[0]),
        reference_percent=None if reference is None else tuple(shares[1]),
        file_top1_percent=overall[0],
        reference_top1_percent=None if reference is None else overall[1],
        same_class_percent=None if reference is None else 100 * float(same.mean()),
    )


def _windows(distance: int) -> list[Offset]:
    return [(-distance, 0), (0, -distance), (0, distance), (distance, 0)]


def _classes(runner: Runner, images: Images, batch_size: int) -> npt.NDArray[np.int64]:
    logits = np.concatenate([logits_of(runner, images[rows]) for rows in batches(len(images), batch_size)])
    return np.where(finite_rows(logits), logits.argmax(axis=1), _NO_CLASS)
