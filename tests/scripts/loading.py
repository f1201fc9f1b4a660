"""Scripts as modules: some have no suffix, so they cannot be imported by name."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).parents[2] / "scripts"


def load_script(file: str, name: str) -> ModuleType:
    """Return the script ``scripts/<file>`` as a module of this name."""
    loader = SourceFileLoader(name, str(SCRIPTS / file))
    specification = importlib.util.spec_from_loader(loader.name, loader)
    assert specification is not None
    module = importlib.util.module_from_spec(specification)
    loader.exec_module(module)
    return module
