"""The paper's consistency tests, two random shifts per batch: kept so that their numbers can be compared.

Source: the evaluation code that Chaman and Dokmanic released with their CVPR 2021 paper. Beside circular shifts of the
images as they are, it tests images with a square erased, mirrored images, and shifts by cropping a padded image, which
lose pixels at one border and bring in new ones at the other: no network is promised to be invariant to those.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.runtimes.batching import ImageSource, Runner, batches
from aps_deploy.verification.comparing import Images, Logits, Progress, finite_rows, logits_of, roll
from aps_deploy.verification.shifts import Offset

ProtocolName = Literal["cifar", "cifar-crop", "cifar-erase", "cifar-flip", "imagenet"]

_NO_CLASS = -1
_CROP_PADDING = 3


@dataclasses.dataclass(frozen=True)
class AuthorsProtocol:
    """The paper's consistency test: two independent shifts per batch.

    Attributes:
        name: what the command line calls it.
        low: smallest shift in pixels, either axis.
        high: one more than the largest shift.
        batch_size: images that share one pair of shifts.
        average: ``batches`` weighs every batch alike (a short last one too), ``images`` every image.
        shift: ``circular``, or ``crop``: the image is padded by 3 pixels of its mean colour and cropped elsewhere.
        change: made before the shifts: ``erase`` blanks a square, at one place per batch, ``flip`` mirrors both axes.
        erased_side: of that square, in pixels.
    """

    name: str
    low: int
    high: int
    batch_size: int
    average: Literal["batches", "images"]
    shift: Literal["circular", "crop"] = "circular"
    change: Literal["none", "erase", "flip"] = "none"
    erased_side: int = 3

    def describe(self) -> str:
        """Return how it moves the images, and what is done to them before, for people who read its numbers."""
        range_of = f"by {self.low} to {self.high - 1} pixels per axis"
        moved = {
            "circular": f"circularly {range_of}",
            "crop": f"{range_of} as a window over the image with {_CROP_PADDING} pixels of its mean colour around it, "
            "where pixels leave and others come in and nothing is promised",
        }
        before = {
            "none": "",
            "erase": f", after a square of {self.erased_side} x {self.erased_side} pixels was blanked",
            "flip": ", after they were turned upside down, which no recipe trains for (hence the accuracies)",
        }
        mean = {"batches": "batches", "images": "images in batches"}[self.average]
        return f"{moved[self.shift]}{before[self.change]}; mean over {mean} of {self.batch_size}"


CIFAR_PROTOCOL = AuthorsProtocol("cifar", -3, 3, 256, "batches")
CIFAR_CROP_PROTOCOL = AuthorsProtocol("cifar-crop", -3, 3, 256, "batches", shift="crop")
CIFAR_ERASE_PROTOCOL = AuthorsProtocol("cifar-erase", -3, 3, 256, "batches", change="erase")
CIFAR_FLIP_PROTOCOL = AuthorsProtocol("cifar-flip", -3, 3, 256, "batches", change="flip")
IMAGENET_PROTOCOL = AuthorsProtocol("imagenet", -32, 32, 256, "images")
PROTOCOLS: dict[ProtocolName, AuthorsProtocol] = {
    "cifar": CIFAR_PROTOCOL,
    "cifar-crop": CIFAR_CROP_PROTOCOL,
    "cifar-erase": CIFAR_ERASE_PROTOCOL,
    "cifar-flip": CIFAR_FLIP_PROTOCOL,
    "imagenet": IMAGENET_PROTOCOL,
}


@dataclasses.dataclass(frozen=True)
class AuthorsConsistency:
    """Result of the authors' protocol.

    Attributes:
        protocol: what was run.
        seed: seed of the shifts.
        num_images: images measured.
        consistency_percent: share of images whose class agrees between the two shifts of their batch, averaged as the
            protocol averages.
        accuracy_percent: share of the unshifted images (changed as the protocol says) that are classified right; None
            without labels.
        protocol_accuracy_percent: the same, averaged as the protocol averages.
        pairs: the two shifts of each batch.
    """

    protocol: AuthorsProtocol
    seed: int
    num_images: int
    consistency_percent: float
    accuracy_percent: float | None
    protocol_accuracy_percent: float | None
    pairs: tuple[tuple[Offset, Offset], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        document = dataclasses.asdict(self)
        document["pairs"] = [[list(first), list(second)] for first, second in self.pairs]
        return document


def authors_consistency(
    runner: Runner,
    images: ImageSource,
    labels: npt.NDArray[np.int64] | None = None,
    *,
    protocol: AuthorsProtocol = CIFAR_PROTOCOL,
    seed: int = 0,
    batch_size: int = 64,
    base: Logits | None = None,
    progress: Progress | None = None,
) -> AuthorsConsistency:
    """Return the result of the authors' evaluation: two random shifts per batch, share of agreeing classes.

    The images are normalised, so that 0 is the mean colour. The shifts are drawn as the authors' code draws them
    (``numpy.random.seed(seed)``, two calls of ``randint`` per batch, after one for the erased square), so the same
    images in the same order meet the same shifts. The protocol's batch is run in parts of ``batch_size``.
    Logits that are not finite name no class, so they agree with nothing. Where the protocol changes no image, ``base``
    (N, classes) may give the runner's logits for the unshifted images, which spares a run of each.

    Raises:
        InputError: there are no images, or they are too small for the protocol.
        ApsError: the runner returned no logits.
    """
    if len(images) == 0:
        raise InputError("the consistency of no images is not defined; give at least one.")
    generator = np.random.RandomState(seed)
    pairs: list[tuple[Offset, Offset]] = []
    agreeing: list[int] = []
    sizes: list[int] = []
    right: list[int] = []
    for rows in batches(len(images), protocol.batch_size):
        batch = _changed(images[rows], protocol, generator)
        first, second = (_offset(generator.randint(protocol.low, protocol.high, size=2)) for _ in range(2))
        classes = [_classes(runner, _shifted(batch, offset, protocol), batch_size) for offset in (first, second)]
        pairs.append((first, second))
        agreeing.append(int(((classes[0] == classes[1]) & (classes[0] != _NO_CLASS)).sum()))
        sizes.append(len(batch))
        if labels is not None:
            if base is None or protocol.change != "none":
                unshifted = _classes(runner, batch, batch_size)
            else:
                unshifted = _best(base[rows])
            right.append(int((unshifted == labels[rows]).sum()))
        if progress is not None:
            progress("authors' protocol", sum(sizes), len(images))
    consistency = _percent(agreeing, sizes, protocol.average)
    accuracy = None if labels is None else _percent(right, sizes, "images")
    as_averaged = None if labels is None else _percent(right, sizes, protocol.average)
    return AuthorsConsistency(protocol, seed, len(images), consistency, accuracy, as_averaged, tuple(pairs))


def _percent(counts: list[int], sizes: list[int], average: Literal["batches", "images"]) -> float:
    if average == "images":
        return 100 * sum(counts) / sum(sizes)
    return 100 * float(np.mean(np.asarray(counts) / np.asarray(sizes)))


def _changed(images: Images, protocol: AuthorsProtocol, generator: np.random.RandomState) -> Images:
    if protocol.change == "flip":
        return np.ascontiguousarray(images[:, :, ::-1, ::-1])
    if protocol.change == "erase":
        # The authors' corner never comes nearer than one more side to the lower and the right border.
        side = protocol.erased_side
        free = min(images.shape[2:]) - 2 * side
        if free < 1:
            raise InputError(
                f"the images are {images.shape[2]} x {images.shape[3]} pixels; protocol {protocol.name} needs more "
                f"than {2 * side}."
            )
        top, left = generator.randint(0, free, size=2)
        images = images.copy()
        images[:, :, top : top + side, left : left + side] = 0
    return images


def _shifted(images: Images, offset: Offset, protocol: AuthorsProtocol) -> Images:
    if protocol.shift == "circular":
        return roll(images, offset)
    height, width = images.shape[2:]
    border = (_CROP_PADDING, _CROP_PADDING)
    padded = np.pad(images, ((0, 0), (0, 0), border, border))
    top, left = (_CROP_PADDING + step for step in offset)
    return np.ascontiguousarray(padded[:, :, top : top + height, left : left + width])


def _classes(runner: Runner, images: Images, batch_size: int) -> npt.NDArray[np.int64]:
    parts = []
    for rows in batches(len(images), batch_size):
        parts.append(_best(logits_of(runner, images[rows])))
    return np.concatenate(parts)


def _best(logits: Logits) -> npt.NDArray[np.int64]:
    return np.where(finite_rows(logits), logits.argmax(axis=1), _NO_CLASS)


def _offset(drawn: npt.NDArray[Any]) -> Offset:
    return int(drawn[0]), int(drawn[1])
