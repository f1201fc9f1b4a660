"""The learning rate as a pure function of the step.

A function of the step needs no state: a run that is resumed in the middle of an epoch computes the same rate as one
that was never stopped.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from aps_deploy.training.settings import ScheduleName

# The rise starts here and not at zero, so that the first steps already move the weights.
_START_SHARE = 0.1


@dataclass(frozen=True)
class Schedule:
    """Learning rate of every optimizer step of a run."""

    kind: ScheduleName
    peak: float
    num_epochs: int
    steps_per_epoch: int
    step_epochs: int = 1
    milestones: tuple[int, ...] = ()
    step_factor: float = 0.1
    warmup_share: float = 0.25

    def at(self, step: int) -> float:
        """Return the learning rate of optimizer step `step`, counted from 0 over the whole run."""
        if self.kind == "constant":
            return self.peak
        epoch = step // self.steps_per_epoch
        if self.kind == "step":
            return self.peak * self.step_factor ** (epoch // self.step_epochs)
        if self.kind == "milestones":
            return self.peak * self.step_factor ** bisect_right(self.milestones, epoch)
        total = self.num_epochs * self.steps_per_epoch
        rise = round(self.warmup_share * total) if self.kind == "one-cycle" else 0
        if step < rise:
            return self.peak * (_START_SHARE + (1 - _START_SHARE) * step / rise)
        return self.peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))
