"""One epoch's optimizer steps, from any step of it on."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as BatchGenerator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from aps_deploy.errors import ApsError
from aps_deploy.models import SelectingNetwork
from aps_deploy.training.augment import augment, draw, normalise
from aps_deploy.training.images import UNREADABLE, LabelledImages
from aps_deploy.training.precision import Arithmetic
from aps_deploy.training.process import Process
from aps_deploy.training.recipes import Recipe
from aps_deploy.training.schedule import Schedule
from aps_deploy.training.sources import too_many_unreadable
from aps_deploy.training.state import Position


class NonFiniteLoss(ApsError):
    """The loss became NaN or infinite.

    Attributes:
        epoch: Epoch of the step, counted from 1.
        step: Step in it, counted from 1.
        learning_rate: Of that step.
        images: The images of the batch, as `LabelledImages.names` names them.
    """

    def __init__(self, loss: float, epoch: int, step: int, learning_rate: float, images: Sequence[str]) -> None:
        self.epoch, self.step, self.learning_rate, self.images = epoch, step, learning_rate, list(images)
        more = "" if len(images) <= _NAMED_IMAGES else f" and {len(images) - _NAMED_IMAGES} more"
        super().__init__(
            f"the loss is {loss} at step {step} of epoch {epoch} with learning rate {learning_rate:.4g}, images "
            f"{', '.join(images[:_NAMED_IMAGES])}{more}; the last checkpoint is from before it. Try a smaller "
            "--learning-rate or --precision float32."
        )


_NAMED_IMAGES = 4


def seed_for(seed: int, *place: int) -> int:
    """Return the seed of one place (epoch, step, ...) of a run.

    Deriving it from the place, not from what was drawn before, makes every batch of a resumed run the batch it
    would have been, and the order of images the same on any number of processes.
    """
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator_for(seed: int, *place: int) -> Generator:
    """Return a generator for one place of a run; see `seed_for`."""
    return torch.Generator().manual_seed(seed_for(seed, *place))


@dataclass
class Trainer:
    """The objects an optimizer step works on."""

    model: SelectingNetwork
    forward: Callable[[Tensor], Tensor]
    """The model, compiled or not; among several processes, what averages its gradients over them."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    arithmetic: Arithmetic
    schedule: Schedule
    recipe: Recipe
    channels_last: bool = False
    process: Process = field(default_factory=Process)
    gathers_statistics: bool = False
    """Batch norms use the images of all processes, and wait for all of them in every pass."""
    average: AveragedModel | None = None
    """Moving average of the weights and of the batch norms' statistics, where the recipe asks for one."""

    @property
    def result(self) -> SelectingNetwork:
        """The network that is validated and kept: the average where there is one."""
        return self.model if self.average is None else cast(SelectingNetwork, self.average.module)

    def take_statistics_of_main(self) -> None:
        """Give the result the batch norms' statistics of the main process, which are the ones that are kept.

        The parameters are the same in all processes; without `--sync-batch-norm` each has statistics of its own images,
        and validation that is shared among them would measure several networks.
        """
        self.process.take_from_main(self.result.buffers())

    def index_batches(self, images: LabelledImages, epoch: int) -> list[Tensor]:
        """Return the image indices of every step of an epoch, of all processes together."""
        return list(images.order(generator_for(self.recipe.seed, epoch)).split(self.recipe.batch_size))

    def share_of(self, batch: Tensor) -> Tensor:
        """Return the indices of a step's images that this process takes; at least one, also of a short last batch."""
        share = self.process.share(batch)
        # A process without an image would leave the others waiting for its gradients: its image weighs nothing.
        return share if len(share) else batch[:1]

    def sizes_of_parts(self, batch_size: int) -> list[int]:
        """Return how many images of this process each pass of a step takes.

        Args:
            batch_size: Images of the step in all processes.
        """
        process, accumulate = self.process, self.recipe.accumulate
        if not self.gathers_statistics:
            own = len(self.share_of(torch.arange(batch_size)))
            return [len(part) for part in torch.arange(own).chunk(accumulate)]
        # The parts that one process would take: as many passes in every process, over the same images. A part, or a
        # step, that has none for this process is passed through empty, so that it adds nothing to the statistics.
        parts = torch.arange(batch_size).chunk(accumulate)
        return [int((part % process.world_size == process.rank).sum()) for part in parts]

    def step(self, batch: Tensor, labels: Tensor, batch_size: int, epoch: int, step: int) -> Tensor:
        """Take one optimizer step.

        Args:
            batch: This process's images (B, 3, H, W) uint8.
            labels: Classes (B,) int64; `UNREADABLE` leaves an image out of the loss.
            batch_size: Images of this step in all processes.
            epoch: Finished epochs.
            step: Steps taken in this epoch.

        Returns:
            (3,) float32, on the device (nothing waits for a GPU): the sum of this process's losses, its number of right
            answers, and that of its images that could not be read.
        """
        device = self.arithmetic.device
        # For dropout, by place and process: a process that is started again knows only the state of the main one.
        torch.manual_seed(seed_for(self.recipe.seed, epoch, step, self.process.rank))
        inputs = self._inputs(batch.to(device, non_blocking=True), batch_size, epoch, step)
        labels = labels.to(device, non_blocking=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.at(epoch * self.schedule.steps_per_epoch + step)
        self.optimizer.zero_grad(set_to_none=True)
        found = torch.zeros(3, device=device)
        sizes = self.sizes_of_parts(batch_size)
        parts = list(zip(inputs[: sum(sizes)].split(sizes), labels[: sum(sizes)].split(sizes), strict=True))
        for number, (part, part_labels) in enumerate(parts, 1):
            # Gradients travel between processes once, with the last part.
            with nullcontext() if number == len(parts) else self.without_exchange():
                found += self._backward(part, part_labels, batch_size)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return found

    def without_exchange(self) -> AbstractContextManager[None]:
        """Return the context in which a backward pass keeps its gradients to this process."""
        module = getattr(self.forward, "_orig_mod", self.forward)  # torch.compile wraps what exchanges
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def _inputs(self, batch: Tensor, batch_size: int, epoch: int, step: int) -> Tensor:
        """Return the augmented, normalised images (B, 3, H, W) float32 of this process."""
        # Drawn for all processes, of which each takes its part: the same images whatever their number. The bytes
        # travel, and the device does the rest: a GPU would wait for two CPU cores that augment.
        generator = generator_for(self.recipe.seed, epoch, step)
        drawn = draw(self.recipe, batch_size, generator).take(self.share_of(torch.arange(batch_size)))
        inputs = normalise(augment(batch, self.recipe, drawn), self.recipe.mean, self.recipe.std)
        return inputs.contiguous(memory_format=torch.channels_last) if self.channels_last else inputs

    def _backward(self, inputs: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """Add the gradients of some of a step's images; return what `step` sums."""
        with self.arithmetic.autocast():
            logits = self.forward(inputs)
        losses = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing, reduction="none")
        # The mean over the images of all processes; among several, gradients are averaged over the processes.
        weight = self.process.world_size / batch_size
        is_idle = self.process.rank >= batch_size
        self.scaler.scale(losses.sum() * (0.0 if is_idle else weight)).backward()
        correct = (logits.detach().argmax(1) == labels).sum()
        found = torch.stack([losses.detach().sum(), correct.float(), (labels == UNREADABLE).sum().float()])
        return torch.zeros_like(found) if is_idle else found


def train_epoch(
    trainer: Trainer,
    images: LabelledImages,
    position: Position,
    *,
    on_step: Callable[[Position], bool],
    on_settled: Callable[[], object] = lambda: None,
) -> bool:
    """Take the remaining steps of the epoch at `position`, which is kept up to date.

    Args:
        trainer: What to train.
        images: The training images.
        position: Where the run stands; its totals, over all processes, grow with every step.
        on_step: Called after each step; a true return value, in any process, stops all of them here or a few steps on.
        on_settled: Called where `position` counts every step that was taken, so that the run can be saved there.

    Returns:
        Whether the epoch is complete.

    Raises:
        NonFiniteLoss: names the step, the learning rate and the images.
        InputError: more images of the epoch cannot be read than the recipe allows to skip.
    """
    trainer.model.train()
    process = trainer.process
    batches = trainer.index_batches(images, position.epoch)
    # A GPU is asked for its numbers now and then only, because asking waits for it.
    interval = 1 if trainer.arithmetic.device.type == "cpu" else 25
    pending: list[Tensor] = []
    started = time.monotonic()
    is_stopped = False
    own = [trainer.share_of(indices) for indices in batches[position.step :]]
    fetched = images.batches(own, seed=seed_for(trainer.recipe.seed, position.epoch))
    for batch, labels in _timed(fetched, position):
        batch_size = len(batches[position.step])
        pending.append(trainer.step(batch, labels, batch_size, position.epoch, position.step))
        position.step += 1
        position.num_seen += batch_size
        is_last = position.step == len(batches)
        is_stopped |= on_step(position)
        # The others must stop at the same step, so they are asked where all of them settle.
        if is_last or position.step % interval == 0 or (is_stopped and process.is_alone):
            try:
                _settle(trainer, position, pending, images, batches)
            except ApsError:
                # The error keeps this frame: loader processes would live on, and hold the output folder's lock.
                if isinstance(fetched, BatchGenerator):
                    fetched.close()
                raise
            is_stopped = process.any(is_stopped)
            on_settled()
        now = time.monotonic()
        position.train_seconds, started = position.train_seconds + now - started, now
        if is_stopped and not pending and not is_last:
            return False
    return True


def _timed(batches: Iterator[tuple[Tensor, Tensor]], position: Position) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches, counting how long each was waited for."""
    while True:
        started = time.monotonic()
        found = next(batches, None)
        position.waiting_seconds += time.monotonic() - started
        if found is None:
            return
        yield found


def _settle(
    trainer: Trainer, position: Position, pending: list[Tensor], images: LabelledImages, batches: list[Tensor]
) -> None:
    """Add the pending losses of all processes to the totals, and refuse one that is not finite."""
    totals = trainer.process.sum(torch.stack(pending).double().cpu())
    for number, (loss, correct, unreadable) in enumerate(totals.tolist()):
        if not math.isfinite(loss):
            step = position.step - len(pending) + number
            rate = trainer.schedule.at(position.epoch * trainer.schedule.steps_per_epoch + step)
            raise NonFiniteLoss(loss, position.epoch + 1, step + 1, rate, images.names(batches[step]))
        position.loss_sum += loss
        position.num_correct += int(correct)
        position.num_seen -= int(unreadable)
        position.num_unreadable += int(unreadable)
    if position.num_unreadable > trainer.recipe.max_unreadable_images:
        # The sum is the same in all processes, so all of them are here; the image may be known to one only.
        found = trainer.process.gather(images.unreadable[-1:])
        raise too_many_unreadable(found, trainer.recipe.max_unreadable_images)
    pending.clear()
