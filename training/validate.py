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
from aps_deploy.training.images import LabelledImages


@dataclass(frozen=True)
class Validation:
    """What one pass over labelled images gave."""

    loss: float
    accuracy: float
    consistency: float | None
    """Share of images whose class survives a random shift (None: not measured)."""
    num_images: int


def validate(
    model: nn.Module,
    images: LabelledImages,
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    batch_size: int,
    shift_limit: int | None = None,
    on_batch: Callable[[int], bool] | None = None,
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

    Returns:
        The measurements, or None when `on_batch` broke the pass off.
    """
    shifts = np.random.RandomState(0)
    totals = torch.zeros(3, dtype=torch.float64)
    num_done = 0
    was_training = model.training
    model.eval()
    try:
        for batch, labels in images.batches(list(torch.arange(len(images)).split(batch_size))):
            inputs = normalise(batch.to(device), preprocessing.mean, preprocessing.std)
            shift = None if shift_limit is None else tuple(shifts.randint(-shift_limit, shift_limit, 2).tolist())
            totals += _measure(model, inputs, labels.to(device), shift)
            num_done += len(labels)
            if on_batch is not None and on_batch(num_done) and num_done < len(images):
                return None
    finally:
        model.train(was_training)
    loss, correct, kept = (totals / num_done).tolist()
    return Validation(loss, correct, None if shift_limit is None else kept, num_done)


@torch.inference_mode()
def _measure(model: nn.Module, inputs: Tensor, labels: Tensor, shift: tuple[int, ...] | None) -> Tensor:
    logits = model(inputs).float()
    classes = logits.argmax(1)
    kept = 0
    if shift is not None:
        kept = int((model(inputs.roll(shift, (2, 3))).argmax(1) == classes).sum())
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.tensor([loss.item(), (classes == labels).sum().item(), kept], dtype=torch.float64)
