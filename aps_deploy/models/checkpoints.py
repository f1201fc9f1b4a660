"""Checkpoints: a safetensors file that holds weights, the model's arguments, preprocessing and class names.

Everything needed to rebuild the network lies in the file's metadata as one JSON object under ``aps_deploy``; no code
is ever unpickled. Two trained networks ship inside the package and go by name wherever a path is accepted.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

import aps_deploy
from aps_deploy.errors import InputError, near_matches
from aps_deploy.files import atomic_path, sha256_of
from aps_deploy.models.layouts import canonical_weights, state_dict_of
from aps_deploy.models.names import is_converted
from aps_deploy.models.network import SelectingNetwork
from aps_deploy.models.registry import create_model
from aps_deploy.models.weights import load_canonical, read_tensors
from aps_deploy.packaged import packaged_models
from aps_deploy.preprocessing import Preprocessing

_METADATA_KEY = "aps_deploy"
_FORMAT = 1


@dataclass(frozen=True)
class CheckpointInfo:
    """Where a loaded network came from.

    Attributes:
        path: the file.
        sha256: of its bytes.
        training: what the training run said of itself (settings, metrics), or an empty dict.
    """

    path: Path
    sha256: str
    training: dict[str, Any] = field(default_factory=dict)


class TrainedModel(SelectingNetwork):
    """A network as :func:`load_checkpoint` returns it: with its preprocessing, class names and origin."""

    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    checkpoint: CheckpointInfo


def locate_checkpoint(path_or_name: str | os.PathLike[str]) -> Path:
    """Return the file behind a path or a packaged network's name.

    Raises:
        InputError: there is neither a file nor a packaged network of that name.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the checkpoint file in it, such as {path / 'best.safetensors'}.")
    packaged = packaged_models()
    if str(path_or_name) in packaged:
        return packaged[str(path_or_name)]
    known = ", ".join(packaged) or "none"
    raise InputError(
        f"checkpoint {path_or_name} does not exist{near_matches(str(path_or_name), packaged)}; "
        f"give a file or a packaged network ({known})."
    )


def save_checkpoint(
    path: str | os.PathLike[str],
    model: SelectingNetwork,
    *,
    preprocessing: Preprocessing,
    class_names: list[str] | tuple[str, ...] | None = None,
    training: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write ``model`` with all that is needed to use it, atomically, as safetensors.

    Args:
        path: the file to write; its suffix should be ``.safetensors``.
        model: the network; its weights are copied to the CPU.
        preprocessing: how an image becomes its input.
        class_names: one per logit.
        training: anything JSON can hold about the run.
        dtype: store floating-point tensors in this type (loading widens them again), or None to keep theirs.

    Raises:
        InputError: class names do not match the number of classes, another suffix, or no such folder.
        ApsError: the disk is full.
    """
    if Path(path).suffix != ".safetensors":
        raise InputError(
            f"cannot write {path}: a checkpoint's name ends in .safetensors; "
            f"use {Path(path).with_suffix('.safetensors')}."
        )
    if model.spec.name.startswith("converted:"):
        raise InputError(
            f"{model.spec.name} was converted from a network in memory, which a checkpoint cannot build again; keep "
            "its state_dict, or convert a network of torchvision or timm by name with: aps-deploy convert"
        )
    if class_names is not None and len(class_names) != model.options.num_classes:
        raise InputError(f"{len(class_names)} class names do not fit a network of {model.options.num_classes} classes.")
    document = {
        "format": _FORMAT,
        "version": aps_deploy.__version__,
        "model": model.arguments,
        "preprocessing": preprocessing.to_dict(),
        "class_names": None if class_names is None else list(class_names),
        "training": training or {},
    }
    tensors = {}
    for key, value in model.state_dict().items():
        narrow = dtype is not None and value.is_floating_point()
        tensors[key] = value.detach().to("cpu", dtype if narrow else value.dtype).contiguous()
    with atomic_path(path) as temporary:
        # Not save_file: on a full disk it raises an error of its own that does not say so.
        temporary.write_bytes(save(tensors, metadata={_METADATA_KEY: json.dumps(document, sort_keys=True)}))
    return Path(path)


def is_checkpoint(path: Path) -> bool:
    """Return whether a safetensors file says that aps-deploy wrote it."""
    try:
        with safetensors.safe_open(path, framework="np") as handle:
            return _METADATA_KEY in (handle.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False


def read_checkpoint_metadata(path: Path) -> dict[str, Any]:
    """Return the JSON object inside one of our checkpoints.

    Raises:
        InputError: the file is corrupt, or was not written by aps-deploy.
    """
    if path.suffix != ".safetensors":
        raise _foreign(path)
    try:
        with safetensors.safe_open(path, framework="np") as handle:
            metadata = handle.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}).") from error
    if _METADATA_KEY not in metadata:
        raise _foreign(path)
    try:
        document = json.loads(metadata[_METADATA_KEY])
    except json.JSONDecodeError as error:
        raise _damaged(path, error) from error
    if not isinstance(document, dict):
        raise _damaged(path, TypeError("not a JSON object"))
    if document.get("format") != _FORMAT:
        raise InputError(
            f"{path} has checkpoint format {document.get('format')!r}, this version reads {_FORMAT}; "
            "use the version of aps-deploy that wrote it."
        )
    return document


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"the metadata of {path} cannot be read ({type(error).__name__}: {error}); it is damaged, or was written by a "
        "newer version of aps-deploy."
    )


def _foreign(path: Path) -> InputError:
    if path.suffix == ".onnx":
        return InputError(f"{path} is an exported file, and a checkpoint is needed; give the one it was made from.")
    return InputError(
        f"{path} is not a checkpoint of aps-deploy; turn other people's weights into one with: "
        f"aps-deploy import {path} -o NAME.safetensors"
    )


def load_checkpoint(path_or_name: str | os.PathLike[str]) -> TrainedModel:
    """Return the network of a checkpoint or of a packaged name, in evaluation mode, float32, on the CPU.

    The network carries ``preprocessing``, ``class_names`` and ``checkpoint`` (file, hash, training record).

    Raises:
        InputError: the file is missing, corrupt or foreign.
    """
    path = locate_checkpoint(path_or_name)
    document = read_checkpoint_metadata(path)
    try:
        model = create_model(**document["model"])
        preprocessing = Preprocessing.from_dict(document["preprocessing"])
        names = document["class_names"]
        training = dict(document["training"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, error) from error
    state = state_dict_of(read_tensors(path), str(path))
    wide = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    if is_converted(model.spec.name):
        _load_converted(model, wide, path)
    else:
        load_canonical(model, canonical_weights(wide))
    trained = _as_trained(model)
    trained.preprocessing = preprocessing
    trained.class_names = None if names is None else tuple(names)
    trained.checkpoint = CheckpointInfo(path, sha256_of(path), training)
    return trained.eval()


def _as_trained(model: SelectingNetwork) -> TrainedModel:
    # The same module with three attributes more; building it twice would double the time to load.
    model.__class__ = _trained_class(type(model))
    assert isinstance(model, TrainedModel)
    return model


def _trained_class(kind: type[SelectingNetwork]) -> type[SelectingNetwork]:
    return type(f"Trained{kind.__name__}", (TrainedModel, kind), {})


def _load_converted(model: SelectingNetwork, state: dict[str, Tensor], path: Path) -> None:
    # Its names are the original's, which need no translation.
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"the tensors in {path} do not fit {model.spec.name}; the file is damaged.") from error
