"""The criteria by which a polyphase component is chosen, and other people's spellings of them."""

from __future__ import annotations

from typing import Literal, get_args

from aps_deploy.errors import known_name

Criterion = Literal["l2", "l1", "linf", "max", "l2_min", "l1_min"]
SelectionMode = Literal["exact", "float"]

CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
SELECTION_MODES: tuple[SelectionMode, ...] = get_args(SelectionMode)

# The authors spell them one way in their CIFAR code and another in their ImageNet code.
_SPELLINGS: dict[str, Criterion] = {
    "l_infty": "linf",
    "l_inf": "linf",
    "non_abs_max": "max",
    "l2min": "l2_min",
    "l1min": "l1_min",
}


def resolve_criterion(name: str) -> Criterion:
    """Return the criterion ``name`` stands for, the authors' spellings included.

    Raises:
        InputError: no such criterion.
    """
    return known_name(_SPELLINGS.get(name, name), CRITERIA, "selection criterion")


def resolve_selection_mode(name: str) -> SelectionMode:
    """Return ``name`` as a selection mode.

    Raises:
        InputError: no such mode.
    """
    return known_name(name, SELECTION_MODES, "selection mode")


def keeps_smallest(criterion: Criterion) -> bool:
    """Return whether the criterion keeps the component with the smallest score."""
    return criterion.endswith("_min")


def is_additive(criterion: Criterion) -> bool:
    """Return whether the score is a sum over pixels (the l2 and l1 families) and not a maximum."""
    return criterion.startswith(("l2", "l1"))
