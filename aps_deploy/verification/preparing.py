"""How images are prepared for a file that may say nothing of it: what it carries, what the reference has, options.

A file of another tool fixes at most the size of its input. Mean and standard deviation must be said then; there is no
default, because a guess would verify another input than the one that is served.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from aps_deploy.errors import InputError
from aps_deploy.preprocessing import PRESETS, Preprocessing, preset
from aps_deploy.runtimes.inputs import fixed_size
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.onnx_files import load_onnx
from aps_deploy.runtimes.opening import file_kind
from aps_deploy.runtimes.tensorrt.plan_file import fixed_side, read_plan_file

if TYPE_CHECKING:
    import onnx


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What a caller says about the preparation of images; None leaves it to file and reference.

    Attributes:
        name: of a preset, which replaces what the file carries.
        image_size: side of the square crop, in pixels.
        resize: length of the shorter side before the crop, in pixels; 0 leaves the image's size.
        mean: of each channel, of values scaled to 0..1.
        std: standard deviation of each channel, likewise.
    """

    name: str | None = None
    image_size: int | None = None
    resize: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def words(self) -> list[str]:
        """Return the options as words of a command line."""
        given = {
            "--preprocessing": self.name,
            "--image-size": self.image_size,
            "--resize": self.resize,
            "--mean": None if self.mean is None else ",".join(map(repr, self.mean)),
            "--std": None if self.std is None else ",".join(map(repr, self.std)),
        }
        return [str(word) for name, value in given.items() if value is not None for word in (name, value)]

    def resolve(self, carried: Preprocessing | None, fixed: int | None, file: str) -> Preprocessing:
        """Return the preprocessing to use.

        Args:
            carried: what file or reference say.
            fixed: side of the only input the file takes, in pixels; None where any size will do or it says itself.
            file: its name, for messages.

        Raises:
            InputError: something is missing or out of range.
        """
        base = carried if self.name is None else preset(self.name)
        if base is None:
            base = self._from_numbers(fixed, file)
        changes: dict[str, Any] = {}
        size = self.image_size
        if size is None and (self.name is not None or carried is None):
            size = fixed  # a preset's size is that of its data set; the file knows better
        if size is not None and size != base.image_size:
            changes["image_size"] = size
            if base.resize is not None:
                changes["resize"] = round(base.resize * size / base.image_size)
        if self.resize is not None:
            changes["resize"] = self.resize or None
        for name in ("mean", "std"):
            if getattr(self, name) is not None:
                changes[name] = getattr(self, name)
        return dataclasses.replace(base, **changes)

    def _from_numbers(self, fixed: int | None, file: str) -> Preprocessing:
        size = self.image_size or fixed
        if self.mean is None or self.std is None or size is None:
            needed = "--mean and --std" + ("" if size is not None else " and --image-size, for it takes any size")
            raise InputError(
                f"{file} does not say how images are prepared; name a preprocessing with --preprocessing "
                f"({', '.join(PRESETS)}), or give {needed}."
            )
        return Preprocessing(size, None, self.mean, self.std)


def numbers_of(text: str | None, name: str) -> tuple[float, ...] | None:
    """Return the numbers in a text such as ``0.485,0.456,0.406``; one number stands for all three channels.

    Raises:
        InputError: it holds anything else.
    """
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3):
        raise InputError(f"{name} is {text!r}; give one number per channel, such as 0.485,0.456,0.406.")
    return numbers * 3 if len(numbers) == 1 else numbers


@dataclasses.dataclass(frozen=True)
class FileFacts:
    """What a file says before it runs.

    Attributes:
        metadata: empty for a file of another tool.
        side: of the only square input it takes, in pixels; None where it takes others or says nothing.
        num_classes: number of its logits; None where it does not say.
    """

    metadata: ModelMetadata
    side: int | None = None
    num_classes: int | None = None


def facts_of(file: str | os.PathLike[str]) -> FileFacts:
    """Return what an ONNX file, an engine or a checkpoint says of its input and its classes.

    Raises:
        InputError: it is missing, damaged, or no model.
    """
    if file_kind(file) == "plan":
        plan = read_plan_file(file)
        return FileFacts(plan.metadata, fixed_side(plan), plan.metadata.num_classes)
    if file_kind(file) != "onnx":
        metadata = ModelMetadata.from_checkpoint(file)
        return FileFacts(metadata, None, metadata.num_classes)
    model = load_onnx(file, with_external_data=False)
    metadata = ModelMetadata.from_onnx(model, os.fspath(file))
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in weights]
    sides = _dimensions(inputs[0])[2:] if len(inputs) == 1 else ()
    side = sides[0] if len(sides) == 2 and sides[0] == sides[1] else None
    first = next((value for value in model.graph.output if value.name == "logits"), model.graph.output[0])
    classes = _dimensions(first)[1:]
    return FileFacts(metadata, side, metadata.num_classes or (classes[0] if len(classes) == 1 else None))


def _dimensions(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(fixed_size(dimension.dim_value) for dimension in value.type.tensor_type.shape.dim)
