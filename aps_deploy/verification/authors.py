"""The paper's consistency test, two random shifts per batch: kept so that its numbers can be compared."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.runtimes.batching import Runner, batches
from aps_deploy.verification.comparing import Images, Progress, finite_rows, logits_of, roll
from aps_deploy.verification.shifts import Offset

_NO_CLASS = -1


@dataclasses.dataclass(frozen=True)
class AuthorsProtocol:
    """The paper's consistency test: two independent circular shifts per batch.

    Attributes:
        name: ``cifar`` or ``imagenet``, whose evaluation code it repeats.
        low: smallest shift in pixels, either axis.
        high: one more than the largest shift.
        batch_size: images that share one pair of shifts.
        average: ``batches`` weighs every batch alike (a short last one too), ``images`` every image.
    """

    name: str
    low: int
    high: int
    batch_size: int
    average: Literal["batches", "images"]


CIFAR_PROTOCOL = AuthorsProtocol("cifar", -3, 3, 256, "batches")
IMAGENET_PROTOCOL = AuthorsProtocol("imagenet", -32, 32, 256, "images")


@dataclasses.dataclass(frozen=True)
class AuthorsConsistency:
    """Result of the authors' protocol.

    Attributes:
        protocol: what was run.
        seed: seed of the shifts.
        num_images: images measured.
        consistency_percent: share of images whose class agrees between the two shifts of their batch.
        accuracy_percent: share of unshifted images classified right; None without labels.
        pairs: the two shifts of each batch.
    """

    protocol: AuthorsProtocol
    seed: int
    num_images: int
    consistency_percent: float
    accuracy_percent: float | None
    pairs: tuple[tuple[Offset, Offset], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        document = dataclasses.asdict(self)
        document["pairs"] = [[list(first), list(second)] for first, second in self.pairs]
        return document


def authors_consistency(
    runner: Runner,
    images: Images,
    labels: npt.NDArray[np.int64] | None = None,
    *,
    protocol: AuthorsProtocol = CIFAR_PROTOCOL,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> AuthorsConsistency:
    """Return the result of the authors' evaluation: two random shifts per batch, share of agreeing classes.

    The shifts are drawn as their code draws them (``numpy.random.seed(seed)``, two calls of ``randint`` per batch), so
    the same images in the same order meet the same shifts. The protocol's batch is run in parts of ``batch_size``.
    Logits that are not finite name no class, so they agree with nothing.

    Raises:
        InputError: there are no images.
        ApsError: the runner returned no logits.
    """
    if len(images) == 0:
        raise InputError("the consistency of no images is not defined; give at least one.")
    generator = np.random.RandomState(seed)
    pairs: list[tuple[Offset, Offset]] = []
    agreeing: list[int] = []
    sizes: list[int] = []
    right = 0
    for rows in batches(len(images), protocol.batch_size):
        first, second = (_offset(generator.randint(protocol.low, protocol.high, size=2)) for _ in range(2))
        batch = images[rows]
        classes = [_classes(runner, roll(batch, offset), batch_size) for offset in (first, second)]
        pairs.append((first, second))
        agreeing.append(int(((classes[0] == classes[1]) & (classes[0] != _NO_CLASS)).sum()))
        sizes.append(len(batch))
        if labels is not None:
            right += int((_classes(runner, batch, batch_size) == labels[rows]).sum())
        if progress is not None:
            progress("authors' protocol", sum(sizes), len(images))
    if protocol.average == "batches":
        consistency = 100 * float(np.mean(np.asarray(agreeing) / np.asarray(sizes)))
    else:
        consistency = 100 * sum(agreeing) / sum(sizes)
    accuracy = None if labels is None else 100 * right / len(images)
    return AuthorsConsistency(protocol, seed, len(images), consistency, accuracy, tuple(pairs))


def _classes(runner: Runner, images: Images, batch_size: int) -> npt.NDArray[np.int64]:
    parts = []
    for rows in batches(len(images), batch_size):
        logits = logits_of(runner, images[rows])
        parts.append(np.where(finite_rows(logits), logits.argmax(axis=1), _NO_CLASS))
    return np.concatenate(parts)


def _offset(drawn: npt.NDArray[Any]) -> Offset:
    return int(drawn[0]), int(drawn[1])
