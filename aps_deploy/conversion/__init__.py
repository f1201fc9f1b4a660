"""Existing networks made shift-invariant, keeping their weights.

Everything is imported on first use: ``import aps_deploy.conversion`` needs no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aps_deploy.conversion.converted import ConvertedModel, ConvertedSpec
    from aps_deploy.conversion.converting import convert
    from aps_deploy.conversion.report import ConversionReport, Sampled
    from aps_deploy.conversion.weights import ConvertedWeights, convert_weights

_HOME_OF = {
    "ConversionReport": "aps_deploy.conversion.report",
    "ConvertedModel": "aps_deploy.conversion.converted",
    "ConvertedSpec": "aps_deploy.conversion.converted",
    "ConvertedWeights": "aps_deploy.conversion.weights",
    "Sampled": "aps_deploy.conversion.report",
    "convert": "aps_deploy.conversion.converting",
    "convert_weights": "aps_deploy.conversion.weights",
}

__all__ = [
    "ConversionReport",
    "ConvertedModel",
    "ConvertedSpec",
    "ConvertedWeights",
    "Sampled",
    "convert",
    "convert_weights",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'aps_deploy.conversion' has no attribute {name!r}")
