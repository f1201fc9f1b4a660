"""The operation: polyphase components, exact selection, and the PyTorch custom ops."""

from aps_deploy.polyphase.criteria import (
    CRITERIA,
    SELECTION_MODES,
    Criterion,
    SelectionMode,
    resolve_criterion,
    resolve_selection_mode,
)
from aps_deploy.polyphase.definition import check_divisible, polyphase_components, take_component
from aps_deploy.polyphase.exporting import exporting, is_exporting
from aps_deploy.polyphase.ops import exact_mean, polyphase_index, polyphase_select, polyphase_take
from aps_deploy.polyphase.selection import Selection, component_scores, relative_margin, select

__all__ = [
    "CRITERIA",
    "SELECTION_MODES",
    "Criterion",
    "Selection",
    "SelectionMode",
    "check_divisible",
    "component_scores",
    "exact_mean",
    "exporting",
    "is_exporting",
    "polyphase_components",
    "polyphase_index",
    "polyphase_select",
    "polyphase_take",
    "relative_margin",
    "resolve_criterion",
    "resolve_selection_mode",
    "select",
    "take_component",
]
