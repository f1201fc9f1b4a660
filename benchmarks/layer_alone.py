"""A downsampling layer alone, in PyTorch and as the file that `export` would write of it.

The exporter takes networks of three channels, so the layer is exported behind a 1x1 convolution, which is cut off
again: what is left is what every exported network holds of the layer, whatever form the exporter gives it.
"""

from __future__ import annotations

import re
import types
from dataclasses import dataclass

import onnx
from onnx import helper
from torch import Tensor, nn

from aps_deploy.errors import InputError
from aps_deploy.export.forms import PolyphaseForm
from aps_deploy.export.onnx_export import finish_onnx, trace_onnx
from aps_deploy.layers import APS, Downsample, LowPassDownsample, Selections
from aps_deploy.layers.aps import BlurPosition
from aps_deploy.models.network import SelectingNetwork
from benchmarks.authors_form import in_authors_form
from benchmarks.calls import Call, as_array, onnx_call, random_images, set_threads, torch_calls, with_declared_form

# The forms of the file whose selection is ours, by the name of the "network" that has it.
FORMS: dict[str, PolyphaseForm] = {
    "aps": "where",
    "aps_gather": "gather",
    "aps_one_pass": "one-pass",
    "aps_custom_op": "custom-op",
}


class LayerAlone(SelectingNetwork):
    """One downsampling layer; its output stands where a network has its logits.

    Args:
        layer: the layer.
        channels: C of its input.
        has_stem: whether a 1x1 convolution makes its input out of images of three channels.
    """

    def __init__(self, layer: Downsample, channels: int, *, has_stem: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 1, bias=False) if has_stem else nn.Identity()
        self.layer = layer
        self.selection_layers = []  # the file gives the maps only
        self.spec = types.SimpleNamespace(name="layer")

    def _forward(self, images: Tensor, selections: Selections) -> Tensor:
        made: Tensor = self.layer(self.stem(images), selections)[0]
        return made


@dataclass(frozen=True)
class LayerSetting:
    """A layer and the maps it takes; written ``CHANNELSxSIDExSIDE:BATCH``, with ``:sSTRIDE`` where it is not 2."""

    channels: int
    side: int
    batch: int
    stride: int = 2
    filter_size: int = 3
    blur_position: BlurPosition = "before_selection"

    @staticmethod
    def parse(text: str) -> LayerSetting:
        """Return the setting that ``text`` names.

        Raises:
            InputError: it names none, or maps that the stride does not divide.
        """
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x\2:([1-9]\d*)(?::s([2-4]))?", text)
        if found is None:
            raise InputError(
                f"the setting is {text}; accepted is CHANNELSxSIDExSIDE:BATCH, with :s3 or :s4 where the stride is not "
                "2, such as 64x56x56:1."
            )
        channels, side, batch, stride = (int(number) for number in found.groups(default="2"))
        if side % stride:
            raise InputError(
                f"the setting {text} has sides of {side}; a stride of {stride} takes its multiples, such as "
                f"{side - side % stride + stride}."
            )
        return LayerSetting(channels, side, batch, stride)

    def __str__(self) -> str:
        stride = "" if self.stride == 2 else f":s{self.stride}"
        return f"{self.channels}x{self.side}x{self.side}:{self.batch}{stride}"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the maps, (N, C, H, W)."""
        return self.batch, self.channels, self.side, self.side

    def layer(self, name: str, *, has_stem: bool = False) -> LayerAlone:
        """Return ``aps``, ``lpf``, ``strided`` or ``authors`` for these maps, in evaluation mode."""
        layer: Downsample
        if name in ("aps", "authors"):
            layer = APS(self.channels, self.stride, filter_size=self.filter_size, blur_position=self.blur_position)
        else:
            filter_size = self.filter_size if name == "lpf" else 1
            layer = LowPassDownsample(self.channels, self.stride, filter_size=filter_size)
        alone = LayerAlone(layer, self.channels, has_stem=has_stem).eval()
        return in_authors_form(alone) if name == "authors" else alone  # type: ignore[return-value]

    def exported(self, name: str) -> onnx.ModelProto:
        """Return the file of ``aps`` in one of its `FORMS`, ``lpf``, ``strided`` or ``authors``."""
        model = self.layer("aps" if name in FORMS else name, has_stem=True)
        traced = trace_onnx(model, height=self.side, width=self.side, opset=20)
        form = FORMS.get(name, "where")
        return with_declared_form(without_stem(finish_onnx(traced, form), self.channels), form)

    def calls(self, runtime: str, names: tuple[str, ...], num_threads: int | None) -> dict[str, Call]:
        """Return a run of each layer on the same maps; PyTorch has one form of ours."""
        maps = random_images(self.shape)
        if runtime == "onnxruntime":
            return {name: onnx_call(self.exported(name), as_array(maps), num_threads) for name in names}
        set_threads(num_threads)
        eager: dict[str, nn.Module] = {name: self.layer(name) for name in names if name == "aps" or name not in FORMS}
        return torch_calls(runtime, eager, maps)


def without_stem(model: onnx.ModelProto, channels: int) -> onnx.ModelProto:
    """Return an exported `LayerAlone`, changed in place, that takes the maps its stem made."""
    graph = model.graph
    images = graph.input[0]
    (stem,) = [node for node in graph.node if node.op_type == "Conv" and images.name in node.input]
    batch, _, height, width = images.type.tensor_type.shape.dim
    maps = helper.make_tensor_value_info(
        stem.output[0], onnx.TensorProto.FLOAT, [batch.dim_param, channels, height.dim_value, width.dim_value]
    )
    kept_values = [value for value in graph.value_info if value.name != stem.output[0]]
    graph.node.remove(stem)
    for node in graph.node:  # the authors' form asks for the number of images, which is that of the maps
        node.input[:] = [maps.name if name == images.name else name for name in node.input]
    kept_weights = [weight for weight in graph.initializer if weight.name not in stem.input]
    for field, entries in (("value_info", kept_values), ("initializer", kept_weights), ("input", [maps])):
        copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
        del getattr(graph, field)[:]
        getattr(graph, field).extend(copies)
    onnx.checker.check_model(model)
    return model
