"""One epoch's optimizer steps, from any step of it on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.optim.swa_utils import AveragedModel

from aps_deploy.errors import ApsError
from aps_deploy.models import ResNet
from aps_deploy.training.augment import augment, normalise
from aps_deploy.training.images import LabelledImages
from aps_deploy.training.precision import Arithmetic
from aps_deploy.training.process import Process
from aps_deploy.training.recipes import Recipe
from aps_deploy.training.schedule import Schedule
from aps_deploy.training.state import Position


def generator_for(seed: int, *place: int) -> Generator:
    """Return a generator for one place (epoch, step, ...) of a run.

    Deriving it from the place, not from what was drawn before, makes every batch of a resumed run the batch it
    would have been, and the order of images the same on any number of processes.
    """
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass
class Trainer:
    """The objects an optimizer step works on."""

    model: ResNet
    forward: Callable[[Tensor], Tensor]
    """The model, compiled or not."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    arithmetic: Arithmetic
    schedule: Schedule
    recipe: Recipe
    channels_last: bool = False
    process: Process = field(default_factory=Process)
    average: AveragedModel | None = None
    """Moving average of the weights and of the batch norms' statistics, where the recipe asks for one."""

    @property
    def result(self) -> ResNet:
        """The network that is validated and kept: the average where there is one."""
        return self.model if self.average is None else cast(ResNet, self.average.module)

    def index_batches(self, num_images: int, epoch: int) -> list[Tensor]:
        """Return the image indices of every step of an epoch; this process's share of each."""
        order = torch.randperm(num_images, generator=generator_for(self.recipe.seed, epoch))
        return [self.process.share(batch) for batch in order.split(self.recipe.batch_size)]

    def step(self, batch: Tensor, labels: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Take one optimizer step.

        Args:
            batch: Images (B, 3, H, W) uint8.
            labels: Classes (B,) int64.
            epoch: Finished epochs.
            step: Steps taken in this epoch.

        Returns:
            The batch's mean loss and number of right answers, as tensors on the device (nothing waits for a GPU).
        """
        device = self.arithmetic.device
        generator = generator_for(self.recipe.seed, epoch, step, self.process.rank)
        # The bytes travel, and the device does the rest: a GPU would wait for two CPU cores that augment.
        batch = augment(batch.to(device, non_blocking=True), self.recipe, generator)
        inputs = normalise(batch, self.recipe.mean, self.recipe.std)
        labels = labels.to(device, non_blocking=True)
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.at(epoch * self.schedule.steps_per_epoch + step)
        with self.arithmetic.autocast():
            logits = self.forward(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()


def train_epoch(
    trainer: Trainer,
    images: LabelledImages,
    position: Position,
    *,
    on_step: Callable[[Position], bool],
) -> bool:
    """Take the remaining steps of the epoch at `position`, which is kept up to date.

    Args:
        trainer: What to train.
        images: The training images.
        position: Where the run stands; its totals grow with every step.
        on_step: Called after each step; a true return value stops here.

    Returns:
        Whether the epoch is complete.

    Raises:
        ApsError: the loss is not finite; names the step and the learning rate.
    """
    trainer.model.train()
    batches = trainer.index_batches(len(images), position.epoch)
    # A GPU is asked for its numbers now and then only, because asking waits for it.
    interval = 1 if trainer.arithmetic.device.type == "cpu" else 25
    pending: list[tuple[Tensor, Tensor, int]] = []
    started = time.monotonic()
    for batch, labels in images.batches(batches[position.step :]):
        loss, correct = trainer.step(batch, labels, position.epoch, position.step)
        pending.append((loss, correct, len(labels)))
        position.step += 1
        position.num_seen += len(labels)
        last = position.step == len(batches)
        if last or position.step % interval == 0:
            _settle(trainer, position, pending)
        now = time.monotonic()
        position.train_seconds, started = position.train_seconds + now - started, now
        if on_step(position) and not last:
            _settle(trainer, position, pending)
            return False
    return True


def _settle(trainer: Trainer, position: Position, pending: list[tuple[Tensor, Tensor, int]]) -> None:
    """Add the pending losses to the totals, and refuse one that is not finite."""
    for number, (loss_tensor, correct, size) in enumerate(pending):
        loss = loss_tensor.item()
        if loss != loss or abs(loss) == float("inf"):
            step = position.step - len(pending) + number
            rate = trainer.schedule.at(position.epoch * trainer.schedule.steps_per_epoch + step)
            raise ApsError(
                f"the loss is {loss} at step {step + 1} of epoch {position.epoch + 1} with learning rate {rate:.4g}; "
                f"the last checkpoint is from before it. Try a smaller --learning-rate or --precision float32."
            )
        position.loss_sum += loss * size
        position.num_correct += int(correct)
    pending.clear()
