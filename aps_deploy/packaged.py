"""The trained networks inside the package, which go by name wherever a path is accepted. Needs no torch."""

from __future__ import annotations

from pathlib import Path

_SUFFIX = ".safetensors"


def packaged_models() -> dict[str, Path]:
    """Return the trained networks inside the package, by name, such as ``resnet20_aps3.cifar10``."""
    folder = Path(__file__).resolve().parent / "assets" / "models"
    return {path.name.removesuffix(_SUFFIX): path for path in sorted(folder.glob(f"*{_SUFFIX}"))}
