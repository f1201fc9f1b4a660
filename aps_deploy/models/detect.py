"""The architecture behind a state dict, read off its keys and shapes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.models.layouts import Weights
from aps_deploy.models.network import SelectingNetwork
from aps_deploy.models.registry import create_model, list_models, spec
from aps_deploy.models.spec import Sampler


@dataclass(frozen=True)
class DetectedModel:
    """What a state dict says of its network.

    Attributes:
        arguments: for :func:`aps_deploy.create_model`, ``name`` included.
        ambiguous: a sentence about what the keys leave open, or None.
    """

    arguments: dict[str, Any]
    ambiguous: str | None


def detect_model(weights: Weights) -> DetectedModel:
    """Return the architecture that ``weights`` belong to.

    Keys cannot tell everything: the authors' CIFAR LPF and APS networks share every key (taken as APS), and the
    criterion is nowhere (taken as l2).

    Raises:
        InputError: no registered architecture has these parameters.
    """
    tensors = weights.tensors
    stem, head = tensors.get("conv1.weight"), tensors.get("fc.weight")
    if stem is None or head is None or stem.dim() != 4 or head.dim() != 2:
        raise InputError(
            f"these weights are not of a ResNet of this project ({len(tensors)} tensors, "
            f"{', '.join(list(tensors)[:3])}, ...); known layouts: aps-deploy, the APS authors, torchvision, "
            "antialiased-cnns."
        )
    cifar = stem.shape[2] == 3
    name = _base_name(weights, cifar)
    sampler, filter_size, ambiguous = _sampler(weights, cifar)
    if sampler != "strided":
        name = f"{name}_{sampler}{filter_size}"
    arguments: dict[str, Any] = {"name": name, "num_classes": head.shape[0]}
    if not cifar and sampler != "strided":
        arguments["pool_only"] = _is_pool_only(weights)
    # torchvision's networks pad with zeros and say so nowhere.
    arguments["padding"] = "circular" if weights.circular else "zeros"
    return DetectedModel(arguments, ambiguous)


def _base_name(weights: Weights, cifar: bool) -> str:
    blocks = {key.rsplit(".", 2)[0] for key in weights.tensors if re.fullmatch(r"layer\d\.\d+\.conv1\.weight", key)}
    stages = sorted({block.split(".")[0] for block in blocks})
    depths = tuple(sum(block.startswith(f"{stage}.") for block in blocks) for stage in stages)
    bottleneck = any(".conv3." in key for key in weights.tensors)
    for name in list_models():
        known = spec(name)
        if (
            known.sampler == "strided"
            and (known.family == "cifar") == cifar
            and known.stages == depths
            and known.bottleneck == bottleneck
        ):
            return name
    raise InputError(
        f"no registered architecture has {depths} {'bottleneck' if bottleneck else 'basic'} blocks and a "
        f"{'3x3' if cifar else '7x7'} stem; list what there is with: aps-deploy models"
    )


def _sampler(weights: Weights, cifar: bool) -> tuple[Sampler, int, str | None]:
    """Return the sampler, its filter size, and what the keys leave open."""
    shifted_shortcut = any(re.fullmatch(r"layer\d\.0\.downsample\.2\.weight", key) for key in weights.keys)
    if not weights.blur_shapes:
        # The authors' ImageNet APS of filter size 1 is the one sampled network that stores no blur.
        if shifted_shortcut:
            return "aps", 1, None
        return (
            "strided",
            1,
            None
            if weights.layout == "authors"
            else "plain keys fit torchvision's networks and every network of aps-deploy; taken as torchvision's "
            "(strided, zero padding), give the architecture and the padding if they are not",
        )
    filter_size = next(iter(weights.blur_shapes.values()))[-1]
    if weights.layout == "antialiased-cnns" and not cifar:
        return "lpf", filter_size, None
    if cifar:
        return (
            "aps",
            filter_size,
            (
                "LPF and APS networks of the authors' CIFAR code have the same keys; taken as APS, "
                "give the architecture if it was trained with LPF"
            ),
        )
    aps = any(".aps_down." in key for key in weights.keys)
    return ("aps" if aps else "lpf"), filter_size, None


def _is_pool_only(weights: Weights) -> bool:
    if not weights.blur_shapes:
        return False  # aps1 of the authors keeps no blur to tell by; pool_only is off by default there.
    return sum(key.startswith("maxpool.") for key in weights.blur_shapes) == 1


def build_detected(weights: Weights, **overrides: Any) -> tuple[SelectingNetwork, DetectedModel]:
    """Return the detected network (its weights not yet loaded), ``overrides`` that are not None taking precedence."""
    detected = detect_model(weights)
    arguments = detected.arguments | {key: value for key, value in overrides.items() if value is not None}
    if spec(arguments["name"]).family == "cifar" or spec(arguments["name"]).sampler == "strided":
        arguments.pop("pool_only", None)
    return create_model(**arguments), detected
