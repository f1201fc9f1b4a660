"""Accuracy, loss and shift consistency of a network on labelled images, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aps_deploy.preprocessing import Preprocessing
from aps_deploy.training.augment import normalise
from aps_deploy.training.images import UNREADABLE, LabelledImages
from aps_deploy.training.process import Process


@dataclass(frozen=True)
class Validation:
    """What one pass over labelled images gave."""

    loss: float
    accuracy: float
    consistency: float | None
    """Share of images whose class survives a random shift (None: not measured)."""
    num_images: int
    num_unreadable: int = 0
    """Images left out because they could not be read."""


def validate(
    model: nn.Module,
    images: LabelledImages,
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    batch_size: int,
    shift_limit: int | None = None,
    on_batch: Callable[[int], bool] | None = None,
    process: Process | None = None,
) -> Validation | None:
    """Return loss, accuracy and, with `shift_limit`, the authors' validation consistency.

    That consistency compares the class of each image with its class under one circular shift per batch, drawn from
    -limit to limit-1 per axis with seed 0, and is the mean over the images.

    Args:
        model: Network, put into evaluation mode and back into training mode.
        images: What to classify.
        preprocessing: Normalisation of the network's input.
        device: Where the network is.
        batch_size: Images per forward pass.
        shift_limit: Measure the consistency with shifts of up to this many pixels.
        on_batch: Called with the images done so far; a true return value breaks the pass off where images are left.
        process: This process among those that share the batches; each image is measured by one of them.

    Returns:
        The measurements, or None when `on_batch` broke the pass off, in any process.
    """
    process = process or Process()
    index_batches = torch.arange(len(images)).split(batch_size)
    own = process.share(torch.arange(len(index_batches))).tolist()
    shifts = _drawn_shifts(len(index_batches), shift_limit)
    # Summed over the processes at the end: losses, right answers, kept answers, images, processes that broke off,
    # images that could not be read.
    totals = torch.zeros(6, dtype=torch.float64)
    was_training = model.training
    model.eval()
    try:
        for number, (batch, labels) in zip(own, images.batches([index_batches[i] for i in own]), strict=True):
            readable = labels != UNREADABLE
            totals[3] += int(readable.sum())
            totals[5] += int((~readable).sum())
            if readable.any():
                inputs = normalise(batch[readable].to(device), preprocessing.mean, preprocessing.std)
                totals[:3] += _measure(model, inputs, labels[readable].to(device), shifts[number])
            if on_batch is not None and on_batch(int(totals[3]) * process.world_size) and number != own[-1]:
                totals[4] += 1
                break
    finally:
        model.train(was_training)
    *sums, num_done, num_broken_off, num_unreadable = process.sum(totals).tolist()
    if num_broken_off:
        return None
    loss, correct, kept = (total / max(num_done, 1) for total in sums)
    return Validation(loss, correct, None if shift_limit is None else kept, int(num_done), int(num_unreadable))


def _drawn_shifts(num_batches: int, limit: int | None) -> list[tuple[int, int] | None]:
    """Return the shift of every batch, of -limit to limit-1 pixels per axis, drawn with seed 0."""
    if limit is None:
        return [None] * num_batches
    generator = np.random.RandomState(0)
    drawn = generator.randint(-limit, limit, (num_batches, 2)).tolist()
    return [(down, right) for down, right in drawn]


@torch.inference_mode()
def _measure(model: nn.Module, inputs: Tensor, labels: Tensor, shift: tuple[int, int] | None) -> Tensor:
    logits = model(inputs).float()
    classes = logits.argmax(1)
    kept = 0
    if shift is not None:
        kept = int((model(inputs.roll(shift, (2, 3))).argmax(1) == classes).sum())
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.tensor([loss.item(), (classes == labels).sum().item(), kept], dtype=torch.float64)
