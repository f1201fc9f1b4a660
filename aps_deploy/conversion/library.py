"""A library of classifiers whose architectures are converted by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from aps_deploy.conversion.plan import Head
from aps_deploy.errors import InputError, near_matches
from aps_deploy.preprocessing import Preprocessing


@dataclass(frozen=True)
class Library:
    """What is asked of a library.

    Attributes:
        title: its name, for people.
        prefix: of our names for its networks converted, such as ``timm:``.
        architectures: the names that are converted. Only families that were proven are listed: exported, verified, and
            bit-identical under shifts in ONNX Runtime.
        families: the same for people.
        example: one of them, for messages.
        build: returns one with a number of classes, random weights, in training mode.
        head: returns the head that one needs; see `aps_deploy.convert`.
        preprocessing: returns how images become the input of one, whose name may end in a tag of its weights.
    """

    title: str
    prefix: str
    architectures: tuple[str, ...]
    families: str
    example: str
    build: Callable[[str, int], nn.Module]
    head: Callable[[str], Head]
    preprocessing: Callable[[str], Preprocessing]

    def check_listed(self, arch: str) -> None:
        """Refuse an architecture that is not converted by name.

        Raises:
            InputError: near matches are offered.
        """
        if arch not in self.architectures:
            raise InputError(
                f"{arch!r} is no architecture of {self.title} that is converted by name"
                f"{near_matches(arch, self.architectures)}; those that are: {self.families}."
            )

    def create(self, arch: str, *, num_classes: int) -> nn.Module:
        """Return the library's own network with random weights, in training mode.

        Raises:
            InputError: an architecture that is not listed, or the library is not installed.
        """
        self.check_listed(arch)
        return self.build(arch, num_classes)

    def converted_name(self, arch: str, filter_size: int) -> str:
        """Return the name under which a converted architecture is known."""
        return f"{self.prefix}{arch}_aps{filter_size}"
