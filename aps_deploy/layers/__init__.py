"""Layers of shift-invariant networks: APS, blur, circular padding, exact pooling, the classifier head."""

from aps_deploy.layers.aps import APS, BlurPosition, Downsample, LowPassDownsample, OddMaps, take_blurred
from aps_deploy.layers.blur import FILTER_SIZES, Blur, binomial_kernel
from aps_deploy.layers.head import Classifier, ExactGlobalAvgPool
from aps_deploy.layers.padding import Padding, PadForPool, WrappedConv2d, check_padding, circular_pad
from aps_deploy.layers.selections import Selections

__all__ = [
    "APS",
    "FILTER_SIZES",
    "Blur",
    "BlurPosition",
    "Classifier",
    "Downsample",
    "ExactGlobalAvgPool",
    "LowPassDownsample",
    "OddMaps",
    "PadForPool",
    "Padding",
    "Selections",
    "WrappedConv2d",
    "binomial_kernel",
    "check_padding",
    "circular_pad",
    "take_blurred",
]
