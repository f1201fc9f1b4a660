"""Shared by the conversion tests: short networks of torchvision's own classes, with weights as after training."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlock, CNBlockConfig, ConvNeXt
from torchvision.models.densenet import DenseNet
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vgg import VGG

NUM_CLASSES = 5


def _mobilenet_v3() -> nn.Module:
    part = partial(InvertedResidualConfig, width_mult=1.0)
    settings = [
        part(8, 3, 8, 8, True, "RE", 2, 1),
        part(8, 3, 24, 16, False, "RE", 2, 1),
        part(16, 5, 48, 16, True, "HS", 2, 1),
        part(16, 5, 48, 16, True, "HS", 1, 1),
        part(16, 5, 48, 24, True, "HS", 2, 1),
    ]
    return MobileNetV3(settings, last_channel=32, num_classes=NUM_CLASSES)


def _convnext() -> nn.Module:
    widths = (16, 24, 32, 40, None)
    stages = [CNBlockConfig(widths[i] or 0, widths[i + 1], 1) for i in range(4)]
    return ConvNeXt(stages, stochastic_depth_prob=0.1, layer_scale=0.5, num_classes=NUM_CLASSES, block=CNBlock)


def _vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 12), (12, 16)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2)]
    network = VGG(nn.Sequential(*layers), num_classes=NUM_CLASSES, init_weights=False)
    network.classifier = nn.Sequential(nn.Linear(16 * 49, NUM_CLASSES))
    return network


SHORT: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: ResNet(BasicBlock, [1, 1, 1, 1], NUM_CLASSES),
    "resnext": lambda: ResNet(Bottleneck, [1, 1, 1, 1], NUM_CLASSES, groups=32, width_per_group=4),
    "wide_resnet": lambda: ResNet(Bottleneck, [1, 1, 1, 1], NUM_CLASSES, width_per_group=80),
    "mobilenet_v2": lambda: MobileNetV2(
        NUM_CLASSES, 0.5, [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2], [6, 64, 1, 2], [6, 160, 1, 2]]
    ),
    "mobilenet_v3": _mobilenet_v3,
    "densenet": lambda: DenseNet(8, (2, 2, 2, 2), 16, num_classes=NUM_CLASSES),
    "convnext": _convnext,
    "vgg": _vgg,
}
FAMILIES = tuple(SHORT)


@functools.cache
def short_network(family: str) -> nn.Module:
    """A network of a family with few layers; do not change it."""
    torch.manual_seed(0)
    return randomised(SHORT[family]())


def full_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomised(torchvision.models.get_model(name, weights=None, num_classes=NUM_CLASSES))


def randomised(model: nn.Module) -> nn.Module:
    """Give batch norms weights and statistics of their own, as training would."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average
            nn.init.uniform_(module.weight, 0.3, 0.8)
            nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 64, 64))
    return model.eval()


def with_circular_borders(model: nn.Module) -> nn.Module:
    """The same strided network on a periodic map: the independent reference of a conversion without a blur."""
    model = copy.deepcopy(model)
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            if any(module.padding):  # type: ignore[arg-type]
                module.padding_mode = "circular"
        elif isinstance(module, nn.MaxPool2d):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, _WrappedMaxPool(module))
        elif hasattr(module, "pad_mode"):  # timm's blur pool
            module.pad_mode = "circular"
    return model


class _WrappedMaxPool(nn.Module):
    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = int(pool.kernel_size), int(pool.stride), int(pool.padding)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x, (self.padding,) * 4, mode="circular"), self.kernel, self.stride)
