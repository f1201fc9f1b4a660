"""A converted network: the original's modules and parameters under their own names, and selections between them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from aps_deploy.conversion.report import ConversionReport
from aps_deploy.errors import InputError
from aps_deploy.layers import Padding, Selections
from aps_deploy.models.network import ModelOptions, SelectingNetwork


@dataclass(frozen=True)
class ConvertedSpec:
    """What is known of a converted network besides its options; the counterpart of `aps_deploy.models.ModelSpec`.

    Attributes:
        name: ``torchvision:resnet18_aps1``, which `create_model` builds, or ``converted:ResNet_aps1``, which it does
            not.
        filter_size: of the blur before each selection; 1 is none.
        total_stride: product of the strides, in pixels.
        smallest_side: of an image, in pixels, so that no padding wraps a map around twice.
        family: whose preprocessing it has where none is stated.
        default_image_size: the usual height and width, in pixels.
    """

    name: str
    filter_size: int
    total_stride: int
    smallest_side: int
    family: str = "imagenet"
    default_image_size: int = 224

    @property
    def size_divisor(self) -> int:
        """What height and width must be multiples of."""
        return self.total_stride

    def min_size_with(self, padding: Padding) -> int:
        """Return the smallest height and width, in pixels; converted networks always pad circularly."""
        return self.smallest_side

    def check_size(self, height: int, width: int, padding: Padding = "circular") -> None:
        """Refuse an image size that the network cannot take.

        Raises:
            InputError: naming the size and the next valid one.
        """
        divisor, smallest = self.total_stride, self.smallest_side
        if min(height, width) >= smallest and not height % divisor and not width % divisor:
            return
        valid_height, valid_width = (max(smallest, -(-side // divisor) * divisor) for side in (height, width))
        raise InputError(
            f"{self.name} does not take {height}x{width} images: both sides must be multiples of {divisor} and at "
            f"least {smallest}; the next valid size is {valid_height}x{valid_width}."
        )


class ConvertedModel(SelectingNetwork):
    """What `aps_deploy.convert` returns: export, verify and train it like a network of `aps_deploy.create_model`.

    Its ``state_dict`` has the keys and values of the original's.

    Attributes:
        report: what was replaced.
    """

    spec: ConvertedSpec

    def __init__(
        self,
        graph: fx.GraphModule,
        spec: ConvertedSpec,
        options: ModelOptions,
        selection_layers: list[str],
        report: ConversionReport,
    ) -> None:
        super().__init__()
        # Taken over one by one, and not kept as one child, so that no key gets a prefix.
        for name, child in graph.named_children():
            self.add_module(name, child)
        for name, parameter in graph.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in graph.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=name not in graph._non_persistent_buffers_set)
        self._graph_forward = type(graph).forward
        self.spec = spec
        self.options = options
        self.selection_layers = selection_layers
        self.report = report

    def _forward(self, images: Tensor, selections: Selections) -> Tensor:
        return self._graph_forward(self, images, selections)  # type: ignore[no-any-return]
