"""How much an output changes when the image moves: measured through a session, so for every runtime alike.

Every image under every shift of a set is compared with the unshifted image: predicted class, largest logit change, and
whether all logits are bit-identical.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.batching import ImageSource, Runner, batches
from aps_deploy.verification.comparing import Logits, Progress, finite_or_none, logits_of, roll
from aps_deploy.verification.consistency_tally import Tally
from aps_deploy.verification.shifts import Offset, ShiftSet


@dataclasses.dataclass(frozen=True)
class ShiftRecord:
    """What one shift did to all images.

    Attributes:
        dy: rows the images were rolled by.
        dx: columns the images were rolled by.
        changed: images whose predicted class changed, or whose logits are not finite.
        not_identical: images whose logits were not bit-identical, or not finite.
        max_logit_change: largest absolute change of any logit; infinite where a logit is not finite.
    """

    dy: int
    dx: int
    changed: int
    not_identical: int
    max_logit_change: float


@dataclasses.dataclass(frozen=True)
class WorstPair:
    """The image and the shift that change the answer most: a changed class first, then the largest logit change.

    Attributes:
        image: position of the image.
        dy: shift down, in pixels.
        dx: shift to the right, in pixels.
        changes_class: whether the predicted class differs, or a logit is not finite.
        identical: whether all logits are bit-identical, which no pair can be worse than then.
        max_logit_change: largest absolute change of any logit; infinite where a logit is not finite.
    """

    image: int
    dy: int
    dx: int
    changes_class: bool
    identical: bool
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
        agreeing_pairs: pairs with finite logits and the same predicted class.
        identical_pairs: pairs with finite, bit-identical logits.
        identical_shifts: shifts under which every untied image has bit-identical logits.
        max_logit_change: largest absolute logit change; infinite where a logit is not finite.
        non_finite_pairs: pairs with a NaN or an infinity among the logits, shifted or not; tied images included.
        worst_image: position of the image with the most class changes, then the largest logit change; None where no
            image was measured.
        worst_shift: the shift with the most class changes, then the largest logit change.
        worst_pair: the one pair that changes most; None where no pair was measured.
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
    worst_pair: WorstPair | None
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
        """Return the numbers as plain JSON values; what is not finite becomes None.

        ``shifts`` is a table by columns: an ImageNet image has 50,175 shifts.
        """
        document = dataclasses.asdict(self)
        document["max_logit_change"] = finite_or_none(self.max_logit_change)
        document["worst_shift"] = None if self.worst_shift is None else list(self.worst_shift)
        document["top1_percent"] = finite_or_none(self.top1_percent)
        document["identical_pairs_percent"] = finite_or_none(self.identical_pairs_percent)
        document["identical_shifts_percent"] = finite_or_none(self.identical_shifts_percent)
        if self.worst_pair is not None:
            document["worst_pair"]["max_logit_change"] = finite_or_none(self.worst_pair.max_logit_change)
        columns = {
            field.name: [getattr(record, field.name) for record in self.shifts]
            for field in dataclasses.fields(ShiftRecord)
        }
        columns["max_logit_change"] = [finite_or_none(value) for value in columns["max_logit_change"]]
        document["shifts"] = columns
        return document


def measure_consistency(
    runner: Runner,
    images: ImageSource,
    shifts: ShiftSet,
    *,
    batch_size: int = 64,
    tied: npt.NDArray[np.bool_] | None = None,
    base: Logits | None = None,
    progress: Progress | None = None,
) -> Consistency:
    """Return how the outputs of ``runner`` change under every shift of the set, for every image.

    Images are taken batch by batch, each once; counts are kept and no pair, so that memory does not grow with the
    number of shifts.

    Args:
        runner: a session.
        images: (N, 3, H, W) float32, preprocessed.
        shifts: what to try.
        batch_size: images per call.
        tied: (N,) True for images whose pairs are to be counted apart, see `Consistency`.
        base: (N, classes) the runner's logits for the unshifted images, in batches of the same size; None runs them.
        progress: called after every batch and shift.

    Raises:
        InputError: there are no images or no shifts.
        ApsError: the runner returned no logits, or not one row per image.
    """
    if len(images) == 0 or len(shifts) == 0:
        raise InputError(f"consistency of {len(images)} images under {len(shifts)} shifts is not defined.")
    is_tied = np.zeros(len(images), dtype=bool) if tied is None else np.asarray(tied, dtype=bool)
    tally = Tally(is_tied, len(shifts))
    done, total = 0, len(images) * len(shifts)
    for rows in batches(len(images), batch_size):
        batch = images[rows]
        unshifted = logits_of(runner, batch) if base is None else base[rows]
        for column, offset in enumerate(shifts.offsets):
            shifted = logits_of(runner, roll(batch, offset))
            if shifted.shape != unshifted.shape:
                raise ApsError(f"logits of shape {shifted.shape} under shift {offset}, {unshifted.shape} without.")
            tally.add(rows, column, unshifted, shifted)
            done += len(batch)
            if progress is not None:
                progress("consistency", done, total)
    return _summary(shifts, tally)


def _summary(shifts: ShiftSet, tally: Tally) -> Consistency:
    columns = zip(shifts.offsets, tally.changed, tally.not_identical, tally.change, strict=True)
    records = tuple(
        ShiftRecord(dy, dx, int(changed), int(not_identical), float(change))
        for (dy, dx), changed, not_identical, change in columns
    )
    num_tied = int(tally.tied.sum())
    num_pairs = (len(tally.tied) - num_tied) * len(shifts)
    worst_shift = None
    if num_pairs:
        worst = max(records, key=lambda record: (record.changed, record.max_logit_change))
        worst_shift = (worst.dy, worst.dx)
    return Consistency(
        num_images=len(tally.tied),
        num_shifts=len(shifts),
        num_pairs=num_pairs,
        agreeing_pairs=num_pairs - int(tally.changed.sum()),
        identical_pairs=num_pairs - int(tally.not_identical.sum()),
        identical_shifts=sum(record.not_identical == 0 for record in records) if num_pairs else 0,
        max_logit_change=float(tally.change.max(initial=0.0)),
        non_finite_pairs=tally.non_finite,
        worst_image=tally.worst_image,
        worst_shift=worst_shift,
        worst_pair=_worst_pair(shifts, tally),
        tied_pairs=num_tied * len(shifts),
        tied_agreeing_pairs=tally.tied_agreeing,
        tied_identical_pairs=tally.tied_identical,
        shifts=records,
    )


def _worst_pair(shifts: ShiftSet, tally: Tally) -> WorstPair | None:
    if tally.worst_pair is None:
        return None
    image, column, changes_class, identical, change = tally.worst_pair
    dy, dx = shifts.offsets[column]
    return WorstPair(image, dy, dx, changes_class, identical, change)


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else float("nan")
