"""How much an output changes when the image moves: measured through a session, so for every runtime alike.

`measure_consistency` compares every image under every shift of a set with the unshifted image: predicted class, largest
logit change, and whether all logits are bit-identical. `authors_consistency` is the paper's protocol, two random
shifts per batch, kept so that its numbers can be compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.verification.shifts import Offset, ShiftSet

Images = npt.NDArray[np.float32]
Logits = npt.NDArray[np.floating[Any]]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done and how much there is."""


class Runner(Protocol):
    """The part of a session that a measurement needs."""

    def run(self, images: Images) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs for images (N, 3, H, W): at least ``logits`` (N, classes)."""
        ...


@dataclasses.dataclass(frozen=True)
class ShiftRecord:
    """What one shift did to all images.

    Attributes:
        dy: rows the images were rolled by.
        dx: columns the images were rolled by.
        changed: images whose predicted class changed.
        not_identical: images whose logits were not bit-identical.
        max_logit_change: largest absolute change of any logit; infinite where a logit is not finite.
    """

    dy: int
    dx: int
    changed: int
    not_identical: int
    max_logit_change: float


@dataclasses.dataclass(frozen=True)
class Consistency:
    """Agreement of shifted with unshifted outputs, over pairs of one image and one shift.

    Images with an exact tie between components of the reference are promised nothing (their best component is not
    unique), so their pairs are counted apart and are in none of the other numbers.

    Attributes:
        num_images: images measured, tied ones included.
        num_shifts: shifts each image was tried on.
        num_pairs: pairs of an untied image and a shift; the denominator of the shares.
        agreeing_pairs: pairs with the same predicted class.
        identical_pairs: pairs with bit-identical logits.
        identical_shifts: shifts under which every untied image has bit-identical logits.
        max_logit_change: largest absolute logit change; infinite where a logit is not finite.
        non_finite_pairs: pairs with a NaN or an infinity among the logits, shifted or not.
        worst_image: position of the image with the most class changes, then the largest logit change; None where no
            image was measured.
        worst_shift: the shift with the most class changes, then the largest logit change.
        tied_pairs: pairs of a tied image and a shift.
        tied_agreeing_pairs: those with the same predicted class.
        tied_identical_pairs: those with bit-identical logits.
        shifts: one record per shift, untied images only.
    """

    num_images: int
    num_shifts: int
    num_pairs: int
    agreeing_pairs: int
    identical_pairs: int
    identical_shifts: int
    max_logit_change: float
    non_finite_pairs: int
    worst_image: int | None
    worst_shift: Offset | None
    tied_pairs: int
    tied_agreeing_pairs: int
    tied_identical_pairs: int
    shifts: tuple[ShiftRecord, ...]

    @property
    def top1_percent(self) -> float:
        """Share of pairs with the same predicted class, in percent; NaN without a pair."""
        return _percent(self.agreeing_pairs, self.num_pairs)

    @property
    def identical_pairs_percent(self) -> float:
        """Share of pairs with bit-identical logits, in percent; NaN without a pair."""
        return _percent(self.identical_pairs, self.num_pairs)

    @property
    def identical_shifts_percent(self) -> float:
        """Share of shifts with bit-identical logits for every image, in percent; NaN without a pair."""
        return _percent(self.identical_shifts, self.num_shifts if self.num_pairs else 0)

    def heat_map(self, height: int, width: int) -> npt.NDArray[np.float64]:
        """Return (height, width) shares of images whose prediction changes under the shift (dy, dx).

        The unshifted corner is 0; a shift that was not measured is NaN.
        """
        share = np.full((height, width), np.nan)
        share[0, 0] = 0.0
        images = self.num_pairs // self.num_shifts if self.num_shifts else 0
        for record in self.shifts:
            share[record.dy % height, record.dx % width] = record.changed / images if images else np.nan
        return share

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values; what is not finite becomes None."""
        document = dataclasses.asdict(self)
        document["max_logit_change"] = finite_or_none(self.max_logit_change)
        document["worst_shift"] = None if self.worst_shift is None else list(self.worst_shift)
        document["top1_percent"] = finite_or_none(self.top1_percent)
        document["identical_pairs_percent"] = finite_or_none(self.identical_pairs_percent)
        document["identical_shifts_percent"] = finite_or_none(self.identical_shifts_percent)
        document["shifts"] = [
            {**dataclasses.asdict(record), "max_logit_change": finite_or_none(record.max_logit_change)}
            for record in self.shifts
        ]
        return document


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


def finite_or_none(value: float | None) -> float | None:
    """Return ``value``, or None for NaN and infinity, which JSON does not have."""
    return value if value is not None and np.isfinite(value) else None


def roll(images: Images, offset: Offset) -> Images:
    """Return images (N, C, H, W) moved circularly by (dy, dx) pixels."""
    return np.roll(images, offset, axis=(2, 3))


def batches(count: int, batch_size: int) -> Iterator[slice]:
    """Yield slices that cover ``count`` rows, ``batch_size`` at a time."""
    if batch_size < 1:
        raise InputError(f"batch size {batch_size} is not accepted; give 1 or more.")
    for start in range(0, count, batch_size):
        yield slice(start, min(start + batch_size, count))


def measure_consistency(
    runner: Runner,
    images: Images,
    shifts: ShiftSet,
    *,
    batch_size: int = 64,
    tied: npt.NDArray[np.bool_] | None = None,
    progress: Progress | None = None,
) -> Consistency:
    """Return how the outputs of ``runner`` change under every shift of the set, for every image.

    Args:
        runner: a session.
        images: float32 (N, 3, H, W), preprocessed.
        shifts: what to try.
        batch_size: images per call.
        tied: (N,) True for images whose pairs are to be counted apart, see `Consistency`.
        progress: called after every batch and shift.

    Raises:
        InputError: there are no images or no shifts.
        ApsError: the runner returned no logits, or not one row per image.
    """
    if len(images) == 0 or len(shifts) == 0:
        raise InputError(f"consistency of {len(images)} images under {len(shifts)} shifts is not defined.")
    is_tied = np.zeros(len(images), dtype=bool) if tied is None else np.asarray(tied, dtype=bool)
    shape = (len(images), len(shifts))
    changed, identical, finite = (np.zeros(shape, dtype=bool) for _ in range(3))
    change = np.zeros(shape)
    done, total = 0, len(images) * len(shifts)
    for rows in batches(len(images), batch_size):
        batch = images[rows]
        base = _logits(runner, batch)
        for column, offset in enumerate(shifts.offsets):
            shifted = _logits(runner, roll(batch, offset))
            if shifted.shape != base.shape:
                raise ApsError(f"logits of shape {shifted.shape} under shift {offset}, {base.shape} without.")
            finite[rows, column] = np.isfinite(base).all(axis=1) & np.isfinite(shifted).all(axis=1)
            changed[rows, column] = base.argmax(axis=1) != shifted.argmax(axis=1)
            identical[rows, column] = identical_rows(base, shifted)
            change[rows, column] = largest_difference(base, shifted)
            done += len(batch)
            if progress is not None:
                progress("consistency", done, total)
    return _summary(shifts, is_tied, changed, identical, finite, change)


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
        agreeing.append(int((classes[0] == classes[1]).sum()))
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


def identical_rows(first: Logits, second: Logits) -> npt.NDArray[np.bool_]:
    """Return (N,) whether two arrays (N, K) of one dtype have the same bits in each row."""
    if first.dtype != second.dtype:
        return np.zeros(len(first), dtype=bool)
    bits = [np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1) for array in (first, second)]
    return np.asarray((bits[0] == bits[1]).all(axis=1))


def largest_difference(first: Logits, second: Logits) -> npt.NDArray[np.float64]:
    """Return (N,) the largest absolute difference in each row, infinite where either row is not finite."""
    finite = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
    with np.errstate(invalid="ignore"):
        difference = np.abs(first.astype(np.float64) - second.astype(np.float64)).max(axis=1, initial=0.0)
    return np.where(finite, difference, np.inf)


def tolerance_excess(values: Logits, reference: Logits, atol: float, rtol: float) -> npt.NDArray[np.float64]:
    """Return (N, K) |values - reference| / (atol + rtol |reference|), infinite in rows that are not finite.

    Equal numbers have no excess and unequal ones some, also where both tolerances are 0.
    """
    ours, theirs = values.astype(np.float64), reference.astype(np.float64)
    finite = np.asarray(np.isfinite(ours).all(axis=1) & np.isfinite(theirs).all(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.abs(ours - theirs)
        excess = np.where(difference > 0, difference / (atol + rtol * np.abs(theirs)), 0.0)
    return np.where(finite[:, None], excess, np.inf)


def _logits(runner: Runner, images: Images) -> Logits:
    outputs = runner.run(images)
    if "logits" not in outputs:
        raise ApsError(f"the model returned no logits; its outputs are {', '.join(sorted(outputs)) or 'none'}.")
    logits = outputs["logits"]
    if logits.ndim != 2 or len(logits) != len(images):
        raise ApsError(f"the model returned logits of shape {logits.shape} for {len(images)} images.")
    # A copy: a session may lend its buffers until the next run.
    return np.array(logits)


def _classes(runner: Runner, images: Images, batch_size: int) -> npt.NDArray[np.int64]:
    return np.concatenate([_logits(runner, images[rows]).argmax(axis=1) for rows in batches(len(images), batch_size)])


def _summary(
    shifts: ShiftSet,
    tied: npt.NDArray[np.bool_],
    changed: npt.NDArray[np.bool_],
    identical: npt.NDArray[np.bool_],
    finite: npt.NDArray[np.bool_],
    change: npt.NDArray[np.float64],
) -> Consistency:
    free = ~tied
    records = tuple(
        ShiftRecord(
            dy=offset[0],
            dx=offset[1],
            changed=int(changed[free, column].sum()),
            not_identical=int((~identical[free, column]).sum()),
            max_logit_change=float(change[free, column].max(initial=0.0)),
        )
        for column, offset in enumerate(shifts.offsets)
    )
    num_pairs = int(free.sum()) * len(shifts)
    worst_image = worst_shift = None
    if num_pairs:
        # lexsort's last key decides first: class changes, then the logit change.
        order = np.lexsort((change[free].max(axis=1), changed[free].sum(axis=1)))
        worst_image = int(np.flatnonzero(free)[order[-1]])
        worst = max(records, key=lambda record: (record.changed, record.max_logit_change))
        worst_shift = (worst.dy, worst.dx)
    return Consistency(
        num_images=len(tied),
        num_shifts=len(shifts),
        num_pairs=num_pairs,
        agreeing_pairs=int((~changed[free]).sum()),
        identical_pairs=int(identical[free].sum()),
        identical_shifts=sum(record.not_identical == 0 for record in records) if num_pairs else 0,
        max_logit_change=float(change[free].max(initial=0.0)),
        non_finite_pairs=int((~finite).sum()),
        worst_image=worst_image,
        worst_shift=worst_shift,
        tied_pairs=int(tied.sum()) * len(shifts),
        tied_agreeing_pairs=int((~changed[tied]).sum()),
        tied_identical_pairs=int(identical[tied].sum()),
        shifts=records,
    )


def _offset(drawn: npt.NDArray[Any]) -> Offset:
    return int(drawn[0]), int(drawn[1])


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else float("nan")
