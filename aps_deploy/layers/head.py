"""Pooling and classifier that give every image the same bits wherever its content stands in map and batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aps_deploy.polyphase import exact_mean, is_exporting


class ExactGlobalAvgPool(nn.Module):
    """Global average pooling: the plain mean in training, the position-independent one in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C) for ``x`` (N, C, H, W)."""
        return x.mean(dim=(2, 3)) if self.training else exact_mean(x)


class Classifier(nn.Linear):
    """A linear layer whose evaluation does not depend on the batch.

    PyTorch's CPU product of float32 matrices rounds differently by batch size and even by row (seen with 5 and 7
    rows). In evaluation the product is taken in float64 and cast back. In an exported file it is a float32 Gemm,
    which ONNX Runtime was seen to compute alike for every row and batch size.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) for features ``x`` (N, C)."""
        if self.training or is_exporting():
            return F.linear(x, self.weight, self.bias)
        with torch.autocast(x.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.double()
            return F.linear(x.double(), self.weight.double(), bias).to(x.dtype)
