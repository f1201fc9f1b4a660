"""Existing networks made shift-invariant, keeping their weights."""

from aps_deploy.conversion.converted import ConvertedModel, ConvertedSpec
from aps_deploy.conversion.converting import convert
from aps_deploy.conversion.report import ConversionReport, Sampled

__all__ = ["ConversionReport", "ConvertedModel", "ConvertedSpec", "Sampled", "convert"]
