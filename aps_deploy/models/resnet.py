"""ResNets that downsample by striding, by LPF or by APS, with one set of parameter names for all three."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aps_deploy.errors import InputError
from aps_deploy.layers import (
    APS,
    BlurPosition,
    Classifier,
    Downsample,
    ExactGlobalAvgPool,
    LowPassDownsample,
    OddMaps,
    Padding,
    Selections,
)
from aps_deploy.models.blocks import BasicBlock, Bottleneck, conv
from aps_deploy.models.spec import ModelSpec
from aps_deploy.models.stems import SampledStemPool, StridedStemPool
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


class ResNet(nn.Module):
    """A residual network of the registry.

    Parameter names are those of torchvision's ResNets in every variant: samplers have no parameters, so one state
    dict fits the strided, LPF and APS form of an architecture alike.
    """

    def __init__(self, spec: ModelSpec, options: ModelOptions) -> None:
        super().__init__()
        self.spec = spec
        self.options = options
        width = spec.widths[0]
        imagenet = spec.family == "imagenet"
        strided_stem = imagenet and (spec.sampler == "strided" or options.pool_only)
        self.conv1 = conv(3, width, 7 if imagenet else 3, options.padding, 2 if strided_stem else 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.stem_pool = self._make_stem_pool(width) if imagenet else None
        block = Bottleneck if spec.bottleneck else BasicBlock
        channels = width
        self.stage_names = [f"layer{i + 1}" for i in range(len(spec.stages))]
        for i, (name, depth, width) in enumerate(zip(self.stage_names, spec.stages, spec.widths, strict=True)):
            make = None if spec.sampler == "strided" else self._make_downsample
            blocks: list[nn.Module] = []
            for position in range(depth):
                stride = 2 if i > 0 and position == 0 else 1
                blocks.append(block(channels, width, stride, make, options.padding))
                channels = width * block.expansion
            self.add_module(name, nn.ModuleList(blocks))
        self.avgpool = ExactGlobalAvgPool()
        self.fc = Classifier(channels, options.num_classes)
        self._initialise()
        self.selection_layers = self._name_selection_layers()

    def _make_downsample(self, channels: int) -> Downsample:
        spec, options = self.spec, self.options
        if spec.sampler == "lpf":
            return LowPassDownsample(channels, filter_size=spec.filter_size, padding=options.padding)
        blur_position: BlurPosition = "before_selection" if spec.family == "imagenet" else "after_selection"
        return APS(
            channels,
            filter_size=spec.filter_size,
            criterion=options.criterion,
            selection=options.selection,
            blur_position=blur_position,
            padding=options.padding,
            odd_maps=options.odd_maps,
        )

    def _make_stem_pool(self, channels: int) -> nn.Module:
        if self.spec.sampler == "strided":
            return StridedStemPool(self.options.padding)
        first = None if self.options.pool_only else self._make_downsample(channels)
        pad_pool = self.options.padding == "circular" or self.spec.sampler == "aps"
        return SampledStemPool(first, self._make_downsample(channels), self.options.padding, pad_pool=pad_pool)

    def _initialise(self) -> None:
        # As the authors do: He initialisation by fan-out; batch norms start as the identity.
        for module in self.modules():
            # Tensors of the meta device have no values to draw, and drawing them would import sympy for seconds.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _name_selection_layers(self) -> list[str]:
        names = []
        for name, module in self.named_modules():
            if isinstance(module, APS):
                module.layer_name = name
                # A shortcut's sampler reuses its main branch's choice.
                if not name.endswith("shortcut_pool"):
                    names.append(name)
        return names

    @property
    def arguments(self) -> dict[str, Any]:
        """The :func:`aps_deploy.create_model` call that rebuilds this network, as keyword arguments."""
        return {"name": self.spec.name, **vars(self.options)}

    @property
    def size_divisor(self) -> int:
        """What height and width must be multiples of; 1 where any size will do."""
        return 1 if self.options.odd_maps == "pad" else self.spec.size_divisor

    @property
    def min_size(self) -> int:
        """The smallest height and width."""
        return self.spec.min_size_with(self.options.padding)

    @property
    def shift_step(self) -> int:
        """Shifts by multiples of it, in pixels, are promised to change nothing.

        2 for ``pool_only``, whose first convolution strides on a fixed grid.
        """
        return 2 if self.selection_layers and self.options.pool_only else 1

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
        x = F.relu(self.bn1(self.conv1(images)))
        if self.stem_pool is not None:
            x = self.stem_pool(x, selections)
        for name in self.stage_names:
            for block in self.get_submodule(name).children():
                x = block(x, selections)
        return self.fc(self.avgpool(x))  # type: ignore[no-any-return]
