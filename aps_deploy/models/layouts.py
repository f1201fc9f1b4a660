"""State dicts of other people's code, rewritten to our parameter names.

Our names are torchvision's. The layouts known, told apart by their keys:

    aps-deploy, torchvision   conv1.weight, layer2.0.conv2.weight, layer2.0.downsample.0.weight
    authors                   circular convolutions are Sequential(pad, conv): conv1.1.weight;
                              samplers keep a blur buffer: layer2.0.aps_down.filt, layer2.0.downsample.0.filt
    antialiased-cnns          layer2.0.conv2.0.filt, layer2.0.conv2.1.weight, unpadded names otherwise

Any of them may carry ``module.`` (DataParallel) in front and sit inside a training file under ``state_dict`` or
``model``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from aps_deploy.errors import InputError

Layout = Literal["aps-deploy or torchvision", "authors", "antialiased-cnns"]

_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
_NESTED_CONV = re.compile(r"^(?P<conv>(?:.*\.)?conv[123])(?:\.\d+)+\.weight$")
_DOWNSAMPLE = re.compile(r"^(?P<block>.*)\.downsample\.(?P<position>\d+)\.(?P<rest>.*)$")


@dataclass(frozen=True)
class Weights:
    """A state dict in our names, and what the original keys told.

    Attributes:
        tensors: parameters and buffers by our names.
        layout: whose keys they were.
        blur_shapes: shape of every blur buffer by its original key; they follow from the architecture.
        circular: whether the keys say that convolutions pad circularly (the authors' Sequential); None for layouts
            that do not tell.
        keys: the original keys without ``module.``.
    """

    tensors: dict[str, Tensor]
    layout: Layout
    blur_shapes: dict[str, tuple[int, ...]]
    circular: bool | None
    keys: tuple[str, ...]


def state_dict_of(document: Any, where: str = "the checkpoint") -> dict[str, Tensor]:
    """Return the state dict inside a loaded training file, without ``module.`` prefixes.

    Raises:
        InputError: there is none.
    """
    if isinstance(document, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(document.get(wrapper), Mapping):
                return state_dict_of(document[wrapper], where)
        tensors = {str(key): value for key, value in document.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(document):
            return {key.removeprefix("module."): value for key, value in tensors.items()}
    raise InputError(
        f"{where} holds no state dict (a mapping of names to tensors, alone or under {', '.join(_WRAPPERS)}); "
        "give a checkpoint of aps-deploy, the APS authors, torchvision or antialiased-cnns."
    )


def detect_layout(state_dict: Mapping[str, Tensor]) -> Layout:
    """Return whose key layout a state dict without ``module.`` prefixes has."""
    # Zero-padded networks of the authors' CIFAR code share antialiased-cnns' keys; both load alike.
    if any(key == "conv1.1.weight" or ".aps_down." in key for key in state_dict):
        return "authors"
    if any(key.endswith(".filt") for key in state_dict):
        return "antialiased-cnns"
    return "aps-deploy or torchvision"


def canonical_weights(state_dict: Mapping[str, Tensor]) -> Weights:
    """Return a state dict (without ``module.`` prefixes) in our names."""
    tensors: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if not key.endswith(".filt"):
            tensors[_canonical_key(key, state_dict)] = value
    layout = detect_layout(state_dict)
    return Weights(
        tensors=tensors,
        layout=layout,
        blur_shapes={key: tuple(value.shape) for key, value in state_dict.items() if key.endswith(".filt")},
        circular={"authors": "conv1.1.weight" in state_dict, "antialiased-cnns": False}.get(layout),
        keys=tuple(state_dict),
    )


def _canonical_key(key: str, state_dict: Mapping[str, Tensor]) -> str:
    nested = _NESTED_CONV.match(key)
    if nested:
        return f"{nested['conv']}.weight"
    shortcut = _DOWNSAMPLE.match(key)
    if shortcut:
        # With a sampler at position 0 the convolution is at 1; a blur of size 1 leaves no key of its own, so the
        # convolution is found by its four dimensions.
        first = state_dict.get(f"{shortcut['block']}.downsample.0.weight")
        offset = 0 if first is not None and first.dim() == 4 else 1
        return f"{shortcut['block']}.downsample.{int(shortcut['position']) - offset}.{shortcut['rest']}"
    return key
