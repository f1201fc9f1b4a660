"""What a module of TensorRT or TensorRT for RTX offers, as plain JSON values; as a program, what ``tensorrt`` offers.

TensorRT's bindings are read in a process of their own (`tests.plugins.tensorrt.bindings`), so this imports nothing.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

Interface = dict[str, dict[str, str]]
"""By class its attributes, and of each the documentation, in which the bindings write signatures."""


def interface_of(module: Any) -> Interface:
    """Return the classes of a module with their attributes; members of an enumeration are attributes, too."""
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    classes["Severity"] = module.ILogger.Severity
    return {name: _attributes(value) for name, value in classes.items()}


def _attributes(value: type) -> dict[str, str]:
    names = [*(name for name in dir(value) if not name.startswith("_")), "__init__"]
    return {name: str(getattr(value, name).__doc__) for name in [*names, *getattr(value, "__members__", ())]}


if __name__ == "__main__":
    print(json.dumps(interface_of(importlib.import_module("tensorrt"))))
