"""ResNets that downsample by striding, by LPF or by APS, with one set of parameter names for all three."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from aps_deploy.layers import (
    APS,
    BlurPosition,
    Classifier,
    Downsample,
    ExactGlobalAvgPool,
    LowPassDownsample,
    Selections,
)
from aps_deploy.models.blocks import BasicBlock, Bottleneck, conv
from aps_deploy.models.network import ModelOptions, SelectingNetwork, SelectionTrace
from aps_deploy.models.spec import ModelSpec
from aps_deploy.models.stems import SampledStemPool, StridedStemPool

__all__ = ["ModelOptions", "ResNet", "SelectionTrace"]


class ResNet(SelectingNetwork):
    """A residual network of the registry.

    Parameter names are those of torchvision's ResNets in every variant: samplers have no parameters, so one state
    dict fits the strided, LPF and APS form of an architecture alike.
    """

    spec: ModelSpec

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
    def size_divisor(self) -> int:
        """What height and width must be multiples of; 1 where any size will do."""
        return 1 if self.options.odd_maps == "pad" else self.spec.size_divisor

    @property
    def shift_step(self) -> int:
        """Shifts by multiples of it, in pixels, are promised to change nothing.

        2 for ``pool_only``, whose first convolution strides on a fixed grid.
        """
        return 2 if self.selection_layers and self.options.pool_only else 1

    def _forward(self, images: Tensor, selections: Selections) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        if self.stem_pool is not None:
            x = self.stem_pool(x, selections)
        for name in self.stage_names:
            for block in self.get_submodule(name).children():
                x = block(x, selections)
        return self.fc(self.avgpool(x))  # type: ignore[no-any-return]
