"""Every architecture by name."""

from __future__ import annotations

import fnmatch
import functools
import re
import warnings
from dataclasses import dataclass

import torch

from aps_deploy.errors import InputError, TiedSelectionWarning, near_matches
from aps_deploy.layers import OddMaps, Padding, check_padding
from aps_deploy.models.names import is_converted
from aps_deploy.models.network import NetworkSpec, SelectingNetwork
from aps_deploy.models.resnet import ModelOptions, ResNet
from aps_deploy.models.spec import Family, ModelSpec, specs_of_family
from aps_deploy.models.ties import why_tied
from aps_deploy.polyphase import Criterion, SelectionMode, resolve_criterion, resolve_selection_mode

_REGISTRY: dict[str, ModelSpec] = {spec.name: spec for spec in specs_of_family("cifar") + specs_of_family("imagenet")}


@dataclass(frozen=True)
class ModelSummary:
    """One line of ``aps-deploy models``."""

    name: str
    family: Family
    num_parameters: int
    num_classes: int
    sizes: str


def spec(name: str) -> ModelSpec:
    """Return the architecture registered as ``name``.

    Raises:
        InputError: no such architecture; near matches are offered.
    """
    if name not in _REGISTRY:
        raise InputError(
            f"unknown architecture {name!r}{near_matches(name, _REGISTRY)}; list them with: aps-deploy models"
        )
    return _REGISTRY[name]


def network_spec(name: str) -> NetworkSpec:
    """Return what is known of any name that `create_model` takes: `spec`, or that of a converted network.

    Raises:
        InputError: as `create_model`.
    """
    if not is_converted(name):
        return spec(name)
    with torch.device("meta"):
        return create_model(name).spec


def list_models(pattern: str = "*") -> list[str]:
    """Return the registered names that match a shell pattern, in natural order (``resnet18`` before ``resnet101``)."""

    def natural(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

    return sorted(fnmatch.filter(_REGISTRY, pattern), key=natural)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    criterion: Criterion | str = "l2",
    selection: SelectionMode | str = "exact",
    pool_only: bool = False,
    padding: Padding | str = "circular",
    odd_maps: OddMaps = "error",
) -> SelectingNetwork:
    """Return a freshly initialised network, in training mode.

    Args:
        name: a name of :func:`list_models`, or of a converted network, ``torchvision:resnet50_aps1`` or
            ``timm:resnet50d_aps1`` and the like, whose padding is circular.
        num_classes: 10 (CIFAR family) or 1000 (ImageNet family) by default.
        criterion: the norm by which APS chooses; the authors' spellings are accepted.
        selection: ``exact`` integer sums, or ``float`` norms as in the authors' code.
        pool_only: ImageNet family with LPF or APS: let the first convolution stride, which is cheaper but keeps
            invariance to even shifts only.
        padding: ``circular``, or ``zeros`` (with reflecting blurs) for other people's weights.
        odd_maps: ``pad`` continues maps of odd size circularly as the authors do, giving up exact invariance.

    Raises:
        InputError: an unknown name or option, or options that do not go together.

    Warns:
        TiedSelectionWarning: the criterion cannot tell the components of this network apart.
    """
    if is_converted(name):
        return _create_converted(name, num_classes, criterion, selection, (pool_only, padding, odd_maps))
    found = spec(name)
    classes = found.default_num_classes if num_classes is None else num_classes
    if classes < 1:
        raise InputError(f"a classifier needs at least one class, but num_classes is {classes}.")
    if pool_only and (found.family != "imagenet" or found.sampler == "strided"):
        raise InputError(f"pool_only applies to ImageNet networks with LPF or APS, not to {name}.")
    if odd_maps not in ("error", "pad"):
        raise InputError(f"unknown odd_maps {odd_maps!r}; choose error or pad.")
    options = ModelOptions(
        num_classes=classes,
        criterion=resolve_criterion(criterion),
        selection=resolve_selection_mode(selection),
        pool_only=pool_only,
        padding=check_padding(padding),
        odd_maps=odd_maps,
    )
    if (tied := why_tied(found, options.criterion)) is not None:
        warnings.warn(tied, TiedSelectionWarning, stacklevel=2)
    return ResNet(found, options)


def _create_converted(
    name: str, num_classes: int | None, criterion: str, selection: str, others: tuple[bool, str, str]
) -> SelectingNetwork:
    # Converting builds on this package; only the name of what it makes is known here.
    from aps_deploy.conversion.named import create_converted

    if others != (False, "circular", "error"):
        raise InputError(f"{name} is converted: it has circular padding, samples in every layer, and refuses odd maps.")
    return create_converted(name, num_classes=num_classes, criterion=criterion, selection=selection)


def resolve_arch(arch: str, *, filter_size: int | None = None, recipe: str | None = None) -> str:
    """Return the registered name for an architecture given our way or the authors' way.

    The authors write ``resnet18_aps`` with a filter size beside it, and CIFAR and ImageNet networks share names:
    ``resolve_arch("resnet18_aps", filter_size=3, recipe="cifar10")`` is ``cifar_resnet18_aps3``.

    Args:
        arch: a registered name, or a name without filter size.
        filter_size: completes ``_lpf`` and ``_aps``; must agree with a size the name already has.
        recipe: a CIFAR recipe (any name that does not begin with ``imagenet``) picks the CIFAR family where both have
            the name.

    Raises:
        InputError: no such architecture, or two filter sizes that disagree.
    """
    if is_converted(arch):
        return _resolve_converted(arch, filter_size)
    parts = re.fullmatch(r"(?P<base>.*?)(?:_(?P<sampler>lpf|aps)(?P<size>\d*))?", arch)
    assert parts is not None
    base, sampler, size = parts["base"], parts["sampler"], parts["size"]
    if recipe is not None and not recipe.startswith("imagenet") and f"cifar_{base}" in _REGISTRY:
        base = f"cifar_{base}"
    if filter_size is not None and not 1 <= filter_size <= 7:
        raise InputError(f"the filter size is {filter_size}; accepted are 1 to 7.")
    if sampler is None:
        if filter_size not in (None, 1):
            raise InputError(
                f"architecture {arch!r} downsamples by striding and has no filter, but the filter size is "
                f"{filter_size}; did you mean {base}_lpf{filter_size} or {base}_aps{filter_size}?"
            )
        return spec(base).name
    if size and filter_size is not None and int(size) != filter_size:
        raise InputError(
            f"architecture {arch!r} names filter size {size}, but filter size {filter_size} was asked for."
        )
    # The authors' default filter size is 1.
    return spec(f"{base}_{sampler}{size or filter_size or 1}").name


def _resolve_converted(arch: str, filter_size: int | None) -> str:
    from aps_deploy.conversion.named import parse_name

    _, _, named = parse_name(arch)
    if filter_size not in (None, named):
        raise InputError(
            f"architecture {arch!r} names filter size {named}, but filter size {filter_size} was asked for."
        )
    return arch


def summarise(name: str) -> ModelSummary:
    """Return what ``aps-deploy models`` shows of an architecture, without allocating its parameters."""
    found = spec(name)
    sizes = f"{found.min_size} and up" + (f", multiples of {found.size_divisor}" if found.size_divisor > 1 else "")
    num_parameters = _count_parameters(found.family, found.depth)
    return ModelSummary(name, found.family, num_parameters, found.default_num_classes, sizes)


@functools.cache
def _count_parameters(family: Family, depth: int) -> int:
    # Samplers have no parameters, so the strided form speaks for all; building each of 150 networks takes 16 seconds.
    strided = next(found for found in specs_of_family(family) if found.depth == depth and found.sampler == "strided")
    with torch.device("meta"):
        model = create_model(strided.name)
    return sum(parameter.numel() for parameter in model.parameters())
