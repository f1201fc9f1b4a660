"""Converted networks by name: ``torchvision:resnet50_aps1``, ``timm:resnet50d_aps3``."""

from __future__ import annotations

import re

from aps_deploy.conversion.converted import ConvertedModel
from aps_deploy.conversion.converting import convert
from aps_deploy.conversion.library import Library
from aps_deploy.conversion.timm_models import TIMM
from aps_deploy.conversion.torchvision_models import TORCHVISION
from aps_deploy.errors import InputError
from aps_deploy.polyphase import Criterion, SelectionMode

LIBRARIES = (TORCHVISION, TIMM)


def library_of(name: str) -> tuple[Library, str]:
    """Return the library of an architecture, torchvision where the name says none, and the name in it.

    Raises:
        InputError: no library is asked for and torchvision has no such architecture, but another has.
    """
    for library in LIBRARIES:
        if name.startswith(library.prefix):
            return library, name.removeprefix(library.prefix)
    for library in LIBRARIES[1:]:
        if name not in TORCHVISION.architectures and name.partition(".")[0] in library.architectures:
            raise InputError(f"{name!r} is an architecture of {library.title}; write {library.prefix}{name}.")
    return TORCHVISION, name


def parse_name(name: str) -> tuple[Library, str, int]:
    """Return library, architecture and filter size of ``torchvision:resnet50_aps1``.

    Raises:
        InputError: a name of another form, or of no listed architecture.
    """
    library, rest = library_of(name)
    match = re.fullmatch(r"(\w+?)_aps([1-7])", rest)
    if match is None:
        raise InputError(
            f"{name!r} does not name a converted network; the form is {library.prefix}NAME_apsJ with a filter size "
            f"J of 1 to 7, such as {library.converted_name(library.example, 1)}."
        )
    library.check_listed(match[1])
    return library, match[1], int(match[2])


def create_converted(
    name: str,
    *,
    num_classes: int | None = None,
    criterion: Criterion | str = "l2",
    selection: SelectionMode | str = "exact",
) -> ConvertedModel:
    """Return a converted network with random weights, in training mode; see `aps_deploy.create_model`.

    Raises:
        InputError: an unknown name or option, or a library that is not installed.
    """
    library, arch, filter_size = parse_name(name)
    original = library.create(arch, num_classes=1000 if num_classes is None else num_classes)
    return convert(
        original, filter_size=filter_size, criterion=criterion, selection=selection, head=library.head(arch), name=name
    )
