"""Shift-invariant vision models that stay shift-invariant after deployment.

The public interface is small; everything is imported on first use, so that ``import aps_deploy`` costs nothing and
needs neither PyTorch nor ONNX Runtime.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# In a checkout, training/, export/, plugins/ and cli.py stand beside this folder (an installed wheel has them inside
# it): extending the search path makes ``aps_deploy.training`` the same module in both.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

if TYPE_CHECKING:
    from aps_deploy.conversion import convert
    from aps_deploy.models import create_model, list_models, load_checkpoint, load_weights
    from aps_deploy.runtimes import open_session

_HOME_OF = {
    "convert": "aps_deploy.conversion",
    "create_model": "aps_deploy.models",
    "list_models": "aps_deploy.models",
    "load_checkpoint": "aps_deploy.models",
    "load_weights": "aps_deploy.models",
    "open_session": "aps_deploy.runtimes",
}

__all__ = [
    "__version__",
    "convert",
    "create_model",
    "list_models",
    "load_checkpoint",
    "load_weights",
    "open_session",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    if name in ("export", "training", "verification", "plugins"):
        return import_module(f"aps_deploy.{name}")
    raise AttributeError(f"module 'aps_deploy' has no attribute {name!r}")
