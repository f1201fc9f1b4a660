"""What a file says about itself, held against the reference: a file must not choose the rules it is judged by."""

from __future__ import annotations

import os
from collections.abc import Iterable, Set
from typing import TYPE_CHECKING, Any

from aps_deploy.errors import InputError

if TYPE_CHECKING:
    from aps_deploy.preprocessing import Preprocessing
    from aps_deploy.runtimes import ModelMetadata
    from aps_deploy.verification.layer_precision import LayerPrecision

# The options that change what a network promises; they are arguments of `create_model`.
_OPTIONS = ("padding", "pool_only")
_OPTIONS_OF_SELECTION = ("selection", "criterion", "odd_maps")


def promises(metadata: ModelMetadata) -> dict[str, object]:
    """Return the options that decide what a network promises, by name; those of selection only where it selects."""
    names = _OPTIONS + (_OPTIONS_OF_SELECTION if metadata.num_selections else ())
    return {name: metadata.arguments.get(name) for name in names}


def declared_differently(declared: ModelMetadata, promised: ModelMetadata) -> tuple[str, ...]:
    """Return in words every option that a file declares otherwise than its reference has it.

    Args:
        declared: of the file.
        promised: of the reference.
    """
    found = []
    for name, wanted in promises(promised).items():
        values = [declared.arguments.get(name)]
        if name in ("selection", "criterion"):
            # Stated a second time, for readers who do not rebuild the network.
            values.append(getattr(declared, name))
        other = next((value for value in values if value != wanted), wanted)
        if other != wanted:
            found.append(f"{name} is {'not stated' if other is None else other}, the reference has {wanted}")
    if declared.selection_layers != promised.selection_layers:
        layers = [", ".join(names) or "none" for names in (declared.selection_layers, promised.selection_layers)]
        found.append(f"selecting layers are {layers[0]}, the reference has {layers[1]}")
    return (
        *found,
        *_other_preprocessing(declared.preprocessing, promised.preprocessing),
        *_other_classes(declared, promised),
    )


def _other_preprocessing(declared: Preprocessing | None, promised: Preprocessing | None) -> tuple[str, ...]:
    """Return what a file does to its images that its reference does not, which no comparison of logits can see.

    File and reference are given the same images, so another mean would pass everything but the user's accuracy.
    """
    if declared is None or promised is None:
        return ()
    wanted = promised.for_size(declared.image_size)
    return tuple(
        f"preprocessing {name} is {getattr(declared, name)}, the reference has {getattr(wanted, name)}"
        for name in ("mean", "std", "channel_order", "interpolation", "resize")
        if getattr(declared, name) != getattr(wanted, name)
    )


def _other_classes(declared: ModelMetadata, promised: ModelMetadata) -> tuple[str, ...]:
    """Return which class a file names first otherwise than its reference; labels follow the file's names."""
    ours, theirs = declared.class_names, promised.class_names
    if ours is None or theirs is None or ours == theirs:
        return ()
    if len(ours) != len(theirs):
        return (f"class names are {len(ours)}, the reference has {len(theirs)}",)
    first = next(position for position, names in enumerate(zip(ours, theirs, strict=True)) if len(set(names)) > 1)
    return (f"class {first} is {ours[first]}, the reference has {theirs[first]}",)


def kept_declared_differently(
    file: str | os.PathLike[str], declared: ModelMetadata, layers: Iterable[LayerPrecision]
) -> tuple[str, ...]:
    """Return in words where the layers that a file declares as kept in float32 are none of its graph.

    Args:
        file: the file; the document beside it must name the same layers.
        declared: what the file says of itself.
        layers: of its graph.
    """
    known = {layer.layer for layer in layers}
    found = [
        f"{name} is declared as kept in fp32, and the graph has no such layer"
        for name in declared.kept_fp32
        if name not in known
    ]
    metadata = _metadata_beside(file)
    beside = [] if metadata is None else metadata.get("kept_fp32") or []
    if metadata is not None and beside != list(declared.kept_fp32):
        names = [", ".join(map(str, each)) or "none" for each in (beside, declared.kept_fp32)]
        found.append(f"the document beside the file says that the layers kept in fp32 are {names[0]}, not {names[1]}")
    return tuple(found)


def precision_declared_differently(
    file: str | os.PathLike[str], declared: ModelMetadata, found: str
) -> tuple[str, ...]:
    """Return in words where a file, or the document beside it, declares another precision than its layers have.

    Args:
        file: the file.
        declared: what it says of itself.
        found: see `layer_precision.file_precision`.
    """
    stated = {"precision is": declared.precision}
    beside = _metadata_beside(file)
    if beside is not None:
        stated["the document beside the file says that the precision is"] = str(beside.get("precision"))
    return tuple(
        f"{words} {value or 'not stated'}, the graph computes in {found}"
        for words, value in stated.items()
        if (value or "fp32") != found
    )


def _metadata_beside(file: str | os.PathLike[str]) -> dict[str, Any] | None:
    from aps_deploy.runtimes import read_sidecar

    try:
        document = read_sidecar(file) or {}
    except InputError:
        return None  # no JSON: the check of the bytes reports it
    metadata = document.get("metadata")
    if document.get("file") != os.path.basename(file) or not isinstance(metadata, dict):
        return None  # it describes another file
    return metadata


def unaudited_layers(
    declared: ModelMetadata, promised: ModelMetadata, outputs: Set[str], *, is_graph: bool
) -> tuple[int, str]:
    """Return how many of the reference's selecting layers the file gives no evidence of, and what it lacks.

    Args:
        declared: of the file.
        promised: of the reference.
        outputs: names of the file's outputs.
        is_graph: whether the file is an ONNX graph, whose metadata must name the values of every selection.
    """
    lacks = []
    if not declared.is_known:
        lacks.append("it carries no metadata of aps-deploy")
    if "polyphase_indices" not in outputs:
        lacks.append("it has no output polyphase_indices")
    if lacks:
        return promised.num_selections, " and ".join(lacks)
    named = {entry.layer for entry in declared.selections}
    unnamed = [layer for layer in promised.selection_layers if is_graph and layer not in named]
    return len(unnamed), f"its metadata names no values for {', '.join(unnamed)}" if unnamed else ""
