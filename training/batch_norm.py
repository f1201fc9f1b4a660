"""Batch normalisation over the images of all processes, so that a run does not depend on how many there are.

PyTorch's `SyncBatchNorm` does it on GPUs only, and its differentiable sum over processes is deprecated without a public
successor: both are small.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over the processes; every process's loss depends on it, so their gradients are summed too."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class GatheredBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose training statistics are those of the batches of all processes together."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised maps (N, C, H, W), in the input's dtype; the statistics are float32."""
        if not self.training:
            return super().forward(input)
        maps = input.float()
        count = torch.tensor([maps.numel() / maps.shape[1]], device=maps.device)
        dist.all_reduce(count)
        mean = _SumOverProcesses.apply(maps.sum((0, 2, 3))) / count
        centred = maps - mean.view(1, -1, 1, 1)
        # From the centred maps: the mean of squares minus the square of the mean would cancel.
        variance = _SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        normalised = centred * torch.rsqrt(variance + self.eps).view(1, -1, 1, 1)
        scaled: Tensor = normalised * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return scaled.to(input.dtype)

    def _follow(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Move the running statistics, which evaluation uses, as `nn.BatchNorm2d` does."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(unbiased_variance, momentum)


def gather_statistics(model: nn.Module, device: torch.device) -> None:
    """Make every batch norm of a network use the images of all processes; parameters and their names stay.

    Args:
        model: The network; changed in place.
        device: Where it is trained.
    """
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            convert = nn.SyncBatchNorm.convert_sync_batchnorm if device.type == "cuda" else _on_cpu
            setattr(model, name, convert(child))
        else:
            gather_statistics(child, device)


def _on_cpu(norm: nn.BatchNorm2d) -> GatheredBatchNorm2d:
    gathered = GatheredBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    gathered.load_state_dict(norm.state_dict())
    return gathered.train(norm.training)
