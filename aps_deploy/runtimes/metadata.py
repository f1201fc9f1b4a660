"""What a model file says about itself: one JSON object inside every exported ONNX file and every checkpoint.

The object stands in the ONNX file's ``metadata_props`` under the key ``METADATA_KEY``. Export writes it, every session
reads it, and a file of another tool, which has none, gets an empty one and stays runnable. Nothing here imports torch
or onnx unless a model or an ONNX file is handed in.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aps_deploy.errors import InputError
from aps_deploy.preprocessing import Preprocessing
from aps_deploy.runtimes.onnx_files import load_onnx, one_line

if TYPE_CHECKING:
    import onnx

METADATA_KEY = "aps_deploy.metadata"
METADATA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class SelectionTensors:
    """Names of one selection's values inside an ONNX graph, so that `verify` can add them as outputs.

    Attributes:
        layer: module path of the selecting layer in the PyTorch model, such as ``layer2.0``.
        index: name of the (N,) int64 index value.
        scores: name of the (N, s*s) component score value; with ``limb_bits`` of (N, limbs * s*s) whole numbers.
        limb_bits: where sums are written in 32-bit whole numbers: a score is the sum of its limbs, the highest first
            among the columns, each worth ``2**limb_bits`` of the next; None for scores that are one number each.
    """

    layer: str
    index: str
    scores: str
    limb_bits: int | None = None


@dataclasses.dataclass(frozen=True)
class ModelMetadata:
    """What a model file says about itself; every field of a file of another tool has its default.

    Attributes:
        architecture: registry name, such as ``resnet20_aps3``.
        arguments: keyword arguments of `create_model` that rebuild the network (without the name).
        filter_size: blur filter size, 1 to 7.
        num_classes: number of logits.
        class_names: one name per logit.
        preprocessing: how an image becomes the network's input.
        size_divisor: height and width must be multiples of it.
        min_size: smallest height and width the network takes, in pixels.
        total_stride: product of the strides, in pixels; unlike `size_divisor`, of networks without APS too.
        shift_step: shifts by multiples of it, in pixels, are promised to change nothing (2 for ``pool_only``).
        selection: ``exact`` or ``float``; None for a network without selections.
        criterion: norm that ranks the components, such as ``l2``.
        selection_layers: module paths of the selecting layers, in forward order.
        selections: names of their values in the ONNX graph; empty for a checkpoint.
        polyphase: form of the selection in the file: ``custom-op``, ``gather``, ``one-pass``, ``plugin`` or
            ``where``; None for a checkpoint.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        kept_fp32: nodes of the graph that compute in float32 although the file is of another precision, by name.
        checkpoint_sha256: hash of the checkpoint the file was made from.
        aps_deploy_version: version that wrote the file.
        calibration: how many images the ranges of an ``int8`` file come from, their hash and the method; None else.
        git_revision: commit of the sources that wrote it; None for an installed package and for a checkpoint.
    """

    architecture: str | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    filter_size: int | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    size_divisor: int = 1
    min_size: int = 1
    total_stride: int = 1
    shift_step: int = 1
    selection: str | None = None
    criterion: str | None = None
    selection_layers: tuple[str, ...] = ()
    selections: tuple[SelectionTensors, ...] = ()
    polyphase: str | None = None
    precision: str | None = None
    kept_fp32: tuple[str, ...] = ()
    checkpoint_sha256: str | None = None
    aps_deploy_version: str | None = None
    calibration: Mapping[str, Any] | None = None
    git_revision: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether the file carried metadata of this project."""
        return self.architecture is not None

    @property
    def num_selections(self) -> int:
        """L, the number of polyphase selections."""
        return len(self.selection_layers)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, with the format's version."""
        document = dataclasses.asdict(dataclasses.replace(self, preprocessing=None))
        document["preprocessing"] = None if self.preprocessing is None else self.preprocessing.to_dict()
        document["arguments"] = dict(self.arguments)
        for name in ("selection_layers", "kept_fp32"):
            document[name] = list(document[name])
        document["selections"] = [
            {name: value for name, value in entry.items() if value is not None} for entry in document["selections"]
        ]
        document["class_names"] = None if self.class_names is None else list(self.class_names)
        return {"metadata_version": METADATA_VERSION, **document}

    def to_json(self) -> str:
        """Return the one JSON object that an ONNX file carries under `METADATA_KEY`."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ModelMetadata:
        """Return the metadata in a dictionary made by `to_dict`; keys of newer versions are ignored.

        Raises:
            InputError: a known key has a value of the wrong kind.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in document.items() if name in known}
        try:
            if values.get("preprocessing") is not None:
                values["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
            if values.get("class_names") is not None:
                values["class_names"] = _names(values["class_names"])
            values["arguments"] = dict(values.get("arguments") or {})
            values["selection_layers"] = _names(values.get("selection_layers") or ())
            values["kept_fp32"] = _names(values.get("kept_fp32") or ())
            values["selections"] = tuple(
                SelectionTensors(
                    str(entry["layer"]), str(entry["index"]), str(entry["scores"]), _limb_bits(entry.get("limb_bits"))
                )
                for entry in values.get("selections") or ()
            )
            for name in ("size_divisor", "min_size", "total_stride", "shift_step"):
                values[name] = _positive_integer(name, values.get(name, 1))
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(
                f"the metadata cannot be read ({type(error).__name__}: {one_line(error)}); export the file again."
            ) from error
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> ModelMetadata:
        """Return the metadata in a JSON text made by `to_json`.

        Raises:
            InputError: the text is no JSON object, or a value is of the wrong kind.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            # Not only its syntax: bytes that are no UTF-8, numbers of 5,000 digits, 10,000 brackets.
            raise InputError(f"the metadata is not JSON ({one_line(error)}); export the file again.") from error
        if not isinstance(document, dict):
            raise InputError("the metadata is not a JSON object; export the file again.")
        return cls.from_dict(document)

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], source: str) -> ModelMetadata:
        """Return the metadata among an ONNX file's key-value properties, or an empty one for another tool's file.

        Raises:
            InputError: there is metadata and it is damaged; the message begins with ``source``, the file's name.
        """
        text = properties.get(METADATA_KEY)
        try:
            return cls() if text is None else cls.from_json(text)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error

    @classmethod
    def from_onnx(cls, model: str | os.PathLike[str] | onnx.ModelProto, source: str | None = None) -> ModelMetadata:
        """Return the metadata of an ONNX file or of a model already in memory.

        Raises:
            InputError: the file is missing or is no ONNX file, or its metadata is damaged.
        """
        name = source or "the model in memory"
        if isinstance(model, (str, os.PathLike)):
            name = source or os.fspath(model)
            model = load_onnx(model, with_external_data=False)
        return cls.from_properties({entry.key: entry.value for entry in model.metadata_props}, name)

    @classmethod
    def from_model(cls, model: Any) -> ModelMetadata:
        """Return the metadata of a network made by `create_model` or `load_checkpoint`."""
        import aps_deploy

        arguments = dict(model.arguments)
        layers = tuple(model.selection_layers)
        class_names = getattr(model, "class_names", None)
        checkpoint = getattr(model, "checkpoint", None)
        return cls(
            architecture=arguments.pop("name"),
            arguments=arguments,
            filter_size=model.spec.filter_size,
            num_classes=arguments["num_classes"],
            class_names=None if class_names is None else tuple(class_names),
            preprocessing=getattr(model, "preprocessing", None),
            size_divisor=model.size_divisor,
            min_size=model.min_size,
            total_stride=model.spec.total_stride,
            shift_step=model.shift_step,
            selection=arguments["selection"] if layers else None,
            criterion=arguments["criterion"] if layers else None,
            selection_layers=layers,
            precision="fp32",
            checkpoint_sha256=None if checkpoint is None else checkpoint.sha256,
            aps_deploy_version=aps_deploy.__version__,
        )

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str]) -> ModelMetadata:
        """Return the metadata of a checkpoint file or packaged model; imports torch.

        Raises:
            InputError: there is no such checkpoint, or it cannot be read.
        """
        from aps_deploy.models import load_checkpoint

        return cls.from_model(load_checkpoint(path))


def _names(values: Any) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError(f"a list of names was expected, not {values!r}")
    return tuple(str(value) for value in values)


def _limb_bits(value: Any) -> int | None:
    return None if value is None else _positive_integer("limb_bits", value)


def _positive_integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} {value!r} is not a positive integer")
    return value
