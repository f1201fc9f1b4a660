"""What every network that selects offers, whoever wrote it: the registry's ResNets and converted networks.

Export, verification and sessions need nothing else of a network, so that a converted one goes the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from aps_deploy.errors import InputError
from aps_deploy.layers import OddMaps, Padding, Selections
from aps_deploy.polyphase import Criterion, SelectionMode


@dataclass(frozen=True)
class ModelOptions:
    """What a registered architecture leaves open; see :func:`aps_deploy.create_model`."""

    num_classes: int
    criterion: Criterion = "l2"
    selection: SelectionMode = "exact"
    pool_only: bool = False
    padding: Padding = "circular"
    odd_maps: OddMaps = "error"


@dataclass(frozen=True)
class SelectionTrace:
    """A forward pass with everything known about its selections.

    Attributes:
        logits: (N, classes).
        indices: (N, L) int64, the indices used (the forced ones where given).
        chosen: (N, L) int64, what each layer would have chosen by itself on the map it saw.
        margins: (N, L) float64, relative margin of each layer's own choice; 0 is an exact tie.
        scores: (N, L, stride**2) float64, each layer's scores divided by the largest magnitude among them.
    """

    logits: Tensor
    indices: Tensor
    chosen: Tensor
    margins: Tensor
    scores: Tensor


class NetworkSpec(Protocol):
    """What an architecture's name stands for; `aps_deploy.models.ModelSpec` is the registry's."""

    @property
    def name(self) -> str:
        """By which `create_model` builds it, where it can."""

    @property
    def family(self) -> str:
        """``cifar`` or ``imagenet``: whose preprocessing it has where none is stated."""

    @property
    def filter_size(self) -> int:
        """Of the blur; 1 is none."""

    @property
    def total_stride(self) -> int:
        """Product of all strides, in pixels."""

    @property
    def size_divisor(self) -> int:
        """What height and width must be multiples of."""

    @property
    def default_image_size(self) -> int:
        """The usual height and width, in pixels."""

    def min_size_with(self, padding: Padding) -> int:
        """Return the smallest height and width, in pixels."""

    def check_size(self, height: int, width: int, padding: Padding = "circular") -> None:
        """Refuse an image size with an `InputError`."""


class SelectingNetwork(nn.Module):
    """A classifier whose selections can be seen and forced; it may have none.

    Attributes:
        spec: the architecture.
        options: what the architecture leaves open.
        selection_layers: module paths of the L selecting layers, in forward order.
    """

    spec: NetworkSpec
    options: ModelOptions
    selection_layers: list[str]

    @property
    def arguments(self) -> dict[str, Any]:
        """The :func:`aps_deploy.create_model` call that rebuilds this network, as keyword arguments."""
        return {"name": self.spec.name, **vars(self.options)}

    @property
    def size_divisor(self) -> int:
        """What height and width must be multiples of; 1 where any size will do."""
        return self.spec.size_divisor

    @property
    def min_size(self) -> int:
        """The smallest height and width, in pixels."""
        return self.spec.min_size_with(self.options.padding)

    @property
    def shift_step(self) -> int:
        """Shifts by multiples of it, in pixels, are promised to change nothing."""
        return 1

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes) for ``images`` (N, 3, H, W).

        Raises:
            InputError: a map's height or width is no multiple of an APS layer's stride.
        """
        return self._forward(images, Selections())

    def forward_with_selection(self, images: Tensor, forced: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits (N, classes) and the indices used (N, L) int64, L selections in forward order.

        Args:
            images: (N, 3, H, W).
            forced: (N, L) int64 indices to use instead of choosing, for example those of another runtime.

        Raises:
            InputError: a size the network does not take, or forced indices that do not fit.
        """
        selections = Selections(forced)
        logits = self._forward(images, selections)
        if forced is not None and forced.shape[1] != len(selections.indices):
            raise InputError(
                f"forced indices have {forced.shape[1]} columns, but {self.spec.name} makes "
                f"{len(selections.indices)} selections."
            )
        return logits, selections.stacked(images.shape[0], images.device)

    @torch.no_grad()
    def trace_selections(self, images: Tensor, forced: Tensor | None = None) -> SelectionTrace:
        """Return a forward pass with each layer's own choice, margin and scores; see :class:`SelectionTrace`."""
        selections = Selections(forced, tracing=True)
        logits = self._forward(images, selections)
        batch, device = images.shape[0], images.device
        indices = selections.stacked(batch, device)
        if not selections.traced:
            empty = torch.empty(batch, 0, dtype=torch.float64, device=device)
            return SelectionTrace(logits, indices, indices, empty, empty[:, :, None])
        scores = torch.stack([choice.scores.double() for choice in selections.traced], dim=1)
        largest = scores.abs().amax(dim=2, keepdim=True)
        return SelectionTrace(
            logits,
            indices,
            torch.stack([choice.index for choice in selections.traced], dim=1),
            torch.stack([choice.margin for choice in selections.traced], dim=1),
            torch.where(largest > 0, scores / largest, 0.0),
        )

    def _forward(self, images: Tensor, selections: Selections) -> Tensor:
        raise NotImplementedError
