"""The trained networks and the images inside the package, which go by name where a path is accepted. Needs no torch."""

from __future__ import annotations

from pathlib import Path

_SUFFIX = ".safetensors"
_ASSETS = Path(__file__).resolve().parent / "assets"


def packaged_models() -> dict[str, Path]:
    """Return the trained networks inside the package, by name, such as ``resnet20_aps3.cifar10``."""
    folder = _ASSETS / "models"
    return {path.name.removesuffix(_SUFFIX): path for path in sorted(folder.glob(f"*{_SUFFIX}"))}


def packaged_images() -> dict[str, Path]:
    """Return the folders of images inside the package, by name: ``cifar10``, 256 test images."""
    return {"cifar10": _ASSETS / "cifar10" / "test"}
