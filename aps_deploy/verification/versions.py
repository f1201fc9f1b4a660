"""Versions of what a verification ran with."""

from __future__ import annotations

import importlib.metadata
import platform

_PACKAGES = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt-cu13",
    "tensorrt-rtx-cu13",
    "numpy",
    "pillow",
)


def package_versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the packages that measure, those that are installed."""
    import aps_deploy

    versions = {"aps_deploy": aps_deploy.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
