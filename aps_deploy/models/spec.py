"""What an architecture's name says: family, depth, sampler, filter, and the sizes it accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aps_deploy.errors import InputError
from aps_deploy.layers.padding import Padding

Family = Literal["cifar", "imagenet"]
Sampler = Literal["strided", "lpf", "aps"]

# Blocks per stage; a bottleneck expands its channels by four.
_CIFAR_STAGES = {20: (3, 3, 3), 56: (9, 9, 9), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_IMAGENET_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


@dataclass(frozen=True)
class ModelSpec:
    """One architecture of the registry.

    Attributes:
        name: as :func:`aps_deploy.create_model` takes it.
        family: ``cifar`` (3x3 stem) or ``imagenet`` (7x7 stem with pooling).
        depth: the ResNet's usual number of layers.
        sampler: how it downsamples.
        filter_size: of the blur; 1 is none.
    """

    name: str
    family: Family
    depth: int
    sampler: Sampler
    filter_size: int = 1

    @property
    def stages(self) -> tuple[int, ...]:
        """Blocks per stage."""
        return (_CIFAR_STAGES if self.family == "cifar" else _IMAGENET_STAGES)[self.depth]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels per stage, before a bottleneck's expansion."""
        first = 16 if len(self.stages) == 3 else 64
        return tuple(first * 2**i for i in range(len(self.stages)))

    @property
    def bottleneck(self) -> bool:
        """Whether blocks are bottlenecks."""
        return self.depth in (50, 101, 152)

    @property
    def total_stride(self) -> int:
        """Product of all strides: 4 or 8 in the CIFAR family, 32 in the ImageNet family."""
        return int(2 ** (len(self.stages) - 1)) * (4 if self.family == "imagenet" else 1)

    @property
    def size_divisor(self) -> int:
        """What height and width must be multiples of; 1 for networks without APS, which take any size."""
        return self.total_stride if self.sampler == "aps" else 1

    @property
    def min_size(self) -> int:
        """The smallest height and width with circular padding; see `min_size_with`."""
        return self.min_size_with("circular")

    def min_size_with(self, padding: Padding) -> int:
        """Return the smallest height and width: no blur may reach further than the smallest map it stands on.

        A circular blur may wrap around once, by the whole map; a reflecting one (``zeros``) by one pixel less.
        """
        widest_pad = self.filter_size // 2
        # The last sampler stands on a map of 2x2 at the size of the total stride.
        reach = 2 if padding == "circular" else 1
        return self.total_stride * (2 if widest_pad > reach else 1)

    @property
    def default_image_size(self) -> int:
        """The usual height and width: 32 or 224."""
        return 32 if self.family == "cifar" else 224

    @property
    def default_num_classes(self) -> int:
        """Classes of the family's data set: 10 or 1000."""
        return 10 if self.family == "cifar" else 1000

    def check_size(self, height: int, width: int, padding: Padding = "circular") -> None:
        """Refuse an image size this architecture cannot take.

        Raises:
            InputError: naming the size and the next valid one.
        """
        divisor, smallest = self.size_divisor, self.min_size_with(padding)
        if min(height, width) >= smallest and not height % divisor and not width % divisor:
            return
        valid_height, valid_width = (max(smallest, -(-side // divisor) * divisor) for side in (height, width))
        multiple = f"multiples of {divisor} and " if divisor > 1 else ""
        raise InputError(
            f"{self.name} does not take {height}x{width} images: both sides must be {multiple}at least {smallest}; "
            f"the next valid size is {valid_height}x{valid_width}."
        )


def specs_of_family(family: Family) -> list[ModelSpec]:
    """Return every architecture of a family: each depth strided, with LPF 1 to 7 and with APS 1 to 7."""
    depths = _CIFAR_STAGES if family == "cifar" else _IMAGENET_STAGES
    # Depths 20 and 56 exist in the CIFAR family alone and carry their plain name; the others name their family.
    specs = []
    for depth in depths:
        prefix = "cifar_" if family == "cifar" and depth in _IMAGENET_STAGES else ""
        base = f"{prefix}resnet{depth}"
        specs.append(ModelSpec(base, family, depth, "strided"))
        samplers: tuple[Sampler, ...] = ("lpf", "aps")
        specs += [
            ModelSpec(f"{base}_{sampler}{size}", family, depth, sampler, size)
            for sampler in samplers
            for size in range(1, 8)
        ]
    return specs
