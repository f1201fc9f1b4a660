"""Counts of what shifts did, kept per shift and per image: pairs are many, 50,175 for one ImageNet image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aps_deploy.verification.comparing import Logits, finite_rows, identical_rows, largest_difference

_Key = tuple[bool, float, bool]
"""How bad a pair is: the class changes, the largest logit change, some bit differs."""


class Tally:
    """Compares shifted with unshifted logits, batch by batch, and keeps counts instead of pairs.

    Args:
        tied: (N,) True for images that are counted apart.
        num_shifts: S.

    Attributes:
        changed: (S,) images whose class changed or whose logits are not finite, untied ones only, as the next three.
        not_identical: (S,) images whose logits are not the same bits, or not finite.
        change: (S,) largest logit change, infinite where a logit is not finite.
        image_changed: (N,) shifts that change the image's class.
        image_change: (N,) largest logit change of the image; 0 for a tied one.
        non_finite: pairs with a NaN or an infinity, tied images included.
        tied_agreeing: pairs of a tied image with the same class.
        tied_identical: pairs of a tied image with the same bits.
    """

    def __init__(self, tied: npt.NDArray[np.bool_], num_shifts: int) -> None:
        self.tied = tied
        self.changed, self.not_identical = np.zeros(num_shifts, np.int64), np.zeros(num_shifts, np.int64)
        self.change = np.zeros(num_shifts)
        self.image_changed, self.image_change = np.zeros(len(tied), np.int64), np.zeros(len(tied))
        self.non_finite = self.tied_agreeing = self.tied_identical = 0
        free = np.flatnonzero(~tied)
        # Where nothing changes the first pair is as bad as any.
        self._worst: tuple[_Key, int, int] | None = ((False, 0.0, False), -int(free[0]), 0) if len(free) else None

    def add(self, rows: slice, shift: int, base: Logits, shifted: Logits) -> None:
        """Count the images ``rows`` under the shift at position ``shift``; logits (K, classes) without and with it."""
        tied = self.tied[rows]
        identical = identical_rows(base, shifted)
        # A NaN names no class: argmax would give all of them the same one, and equal NaNs have equal bits.
        usable = finite_rows(base, shifted)
        if usable.all() and identical.all():
            self.tied_agreeing += int(tied.sum())
            self.tied_identical += int(tied.sum())
            return
        identical &= usable
        changed = ~usable | (base.argmax(axis=1) != shifted.argmax(axis=1))
        change = largest_difference(base, shifted)
        free = ~tied
        self.non_finite += int((~usable).sum())
        self.tied_agreeing += int((~changed[tied]).sum())
        self.tied_identical += int(identical[tied].sum())
        if not free.any():
            return
        self.changed[shift] += int(changed[free].sum())
        self.not_identical[shift] += int((~identical[free]).sum())
        self.change[shift] = max(self.change[shift], float(change[free].max()))
        self.image_changed[rows] += changed & free
        self.image_change[rows] = np.maximum(self.image_change[rows], np.where(free, change, 0.0))
        self._keep_worst(rows.start, shift, free, changed, identical, change)

    def _keep_worst(
        self,
        start: int,
        shift: int,
        free: npt.NDArray[np.bool_],
        changed: npt.NDArray[np.bool_],
        identical: npt.NDArray[np.bool_],
        change: npt.NDArray[np.float64],
    ) -> None:
        # lexsort's last key decides first; a stable sort from the worst down keeps the first of equals first.
        keys = [np.where(free, key, -1.0) for key in (~identical, change, changed)]
        row = int(np.lexsort([-key for key in keys])[0])
        found = ((bool(changed[row]), float(change[row]), not identical[row]), -(start + row), -shift)
        if self._worst is None or found > self._worst:
            self._worst = found

    @property
    def worst_pair(self) -> tuple[int, int, bool, bool, float] | None:
        """Image, shift, whether the class changes, whether the bits are the same, and the largest logit change.

        Of the untied pair that changes most, of equals the first image and then the first shift; None without any.
        """
        if self._worst is None:
            return None
        (changes_class, change, differs), image, shift = self._worst
        return -image, -shift, changes_class, not differs, change

    @property
    def worst_image(self) -> int | None:
        """Position of the untied image with the most changes of class, then the largest logit change."""
        free = np.flatnonzero(~self.tied)
        if not len(free):
            return None
        return int(free[np.lexsort((self.image_change[free], self.image_changed[free]))[-1]])
