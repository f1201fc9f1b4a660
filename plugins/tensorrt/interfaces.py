"""What TensorRT is told of the plugins: shapes, types and layouts of their tensors, and how their kernels are launched.

``trt`` is the package tensorrt, ``trtp`` its module tensorrt.plugin. Sizes are symbols there, because the batch, and
perhaps height and width, are open when an engine is built; only the number of channels must be known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from aps_deploy.errors import ApsError
from aps_deploy.plugins.tensorrt.operators import PluginOperator

ElementType = Literal["fp32", "fp16", "bf16"]

# The kernels' division of the work, the same for every map: how many there are of something that a plugin gives, or
# that its kernel was compiled for, cannot be read off symbols.
BLOCK_PIXELS = 64
PARTS = 8
BLOCK_VALUES = 1024

_TYPE_NAMES: dict[str, ElementType] = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}
_SPELLINGS: dict[ElementType, str] = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16"}


def element_type(tensor: Any) -> ElementType:
    """Return the type of a map's values.

    Raises:
        ApsError: there are no kernels for it.
    """
    name = tensor.dtype.name
    if name not in _TYPE_NAMES:
        raise ApsError(f"the plugins take maps of FLOAT, HALF or BF16, and this one is of {name}.")
    return _TYPE_NAMES[name]


def outputs_of(operator: PluginOperator, inputs: Sequence[Any], trt: Any, trtp: Any) -> tuple[Any, ...]:
    """Return the descriptors of what an operator gives, for those of what it takes."""
    first = inputs[0]
    batch = first.shape_expr[0]
    if operator.kind == "energy":
        height, width = first.shape_expr[2], first.shape_expr[3]
        blocks = trtp.cdiv(height * width, BLOCK_PIXELS)
        shapes: tuple[tuple[Any, ...], ...] = ((batch, height, width), (batch, blocks))
        return tuple(trtp.from_shape_expr(shape, dtype=trt.float32) for shape in shapes)
    if operator.kind == "score":
        return (trtp.from_shape_expr((batch, PARTS, operator.stride**2), dtype=trt.int64),)
    taken = first.like()
    for axis in (2, 3):
        taken.shape_expr[axis] = first.shape_expr[axis] // operator.stride
    return taken, trtp.from_shape_expr((batch,), dtype=trt.int64)


def combination_of(operator: PluginOperator, inputs: Sequence[Any], trtp: Any) -> Any:
    """Return the types and layouts an operator offers: the types are the network's, of the layouts TensorRT chooses.

    The layout with channels last is offered for maps where it holds nothing but the channels.
    """
    if operator.kind == "score":
        return trtp.AutoTuneCombination("FP32, FP32, INT64", "LINEAR")
    kind = element_type(inputs[0])
    layouts = "|".join(("LINEAR", *_channels_last_layouts(kind, int(inputs[0].shape[1]))))
    if operator.kind == "energy":
        return trtp.AutoTuneCombination(f"{_SPELLINGS[kind]}, FP32, FP32", f"{layouts}, LINEAR, LINEAR")
    name = _SPELLINGS[kind]
    return trtp.AutoTuneCombination(f"{name}, INT64, {name}, INT64", f"{layouts}, LINEAR, {layouts}, LINEAR")


def _channels_last_layouts(kind: ElementType, num_channels: int) -> tuple[str, ...]:
    # HWC8 pads the channels to a multiple of 8.
    if kind == "fp32":
        return ("HWC",)
    return ("HWC8",) if num_channels > 0 and num_channels % 8 == 0 else ()


def is_channels_last(tensor: Any) -> bool:
    """Return whether a map's channels lie side by side in memory.

    Raises:
        ApsError: the layout is one that was not offered.
    """
    name = tensor.format.name
    if name not in ("LINEAR", "HWC", "HWC8"):
        raise ApsError(f"the plugins were asked for a map in the layout {name}, which they do not offer.")
    return bool(name != "LINEAR")


def num_channels(tensor: Any) -> int:
    """Return the number of channels of a map.

    Raises:
        ApsError: it is open.
    """
    channels = int(tensor.shape[1])
    if channels < 1:
        raise ApsError("the plugins need maps whose number of channels is known when the engine is built.")
    return channels


def launch_of(
    operator: PluginOperator, inputs: Sequence[Any], trtp: Any, *, num_threads: int, shared_bytes: int
) -> tuple[Any, Any]:
    """Return how a kernel is launched: grid and block, and the integers between its inputs and its outputs.

    Args:
        operator: whose kernel.
        inputs: descriptors of what it takes.
        trtp: the module tensorrt.plugin.
        num_threads: threads of a block.
        shared_bytes: shared memory of a block.
    """
    sizes = inputs[0].shape_expr
    if operator.kind == "energy":
        pixels = sizes[2] * sizes[3]
        blocks, integers = trtp.cdiv(pixels, BLOCK_PIXELS), [sizes[1], pixels]
    elif operator.kind == "score":
        blocks, integers = PARTS, [sizes[1], sizes[2]]
    else:
        num_taken = (sizes[2] // operator.stride) * (sizes[3] // operator.stride)
        blocks, integers = trtp.cdiv(sizes[1] * num_taken, BLOCK_VALUES), [sizes[1], sizes[2], sizes[3]]
    launch = trtp.KernelLaunchParams()
    launch.grid_x, launch.grid_y = blocks, sizes[0]
    launch.block_x, launch.shared_mem = num_threads, shared_bytes
    arguments = trtp.SymIntExprs(len(integers))
    for position, integer in enumerate(integers):
        arguments[position] = trtp.SymInt32(integer)
    return launch, arguments
