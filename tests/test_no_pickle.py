"""No file and no request can bring code with it: nothing in the package unpickles, evaluates or loads like that."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    [*(path for name in ("aps_deploy", "training", "export", "plugins") for path in (ROOT / name).rglob("*.py"))]
)
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
"""Modules that make objects of any class out of bytes."""

SAFE_ARGUMENT = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
"""Functions that do so unless told otherwise, and how they are told."""

FORBIDDEN_CALLS = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}


def findings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: ast.literal_eval(word.value) for word in node.keywords if _is_constant(word.value)}
            argument, wanted = SAFE_ARGUMENT.get(name, (None, None))
            if name in FORBIDDEN_CALLS or (argument is not None and given.get(argument) is not wanted):
                yield ast.unparse(node)


def _is_constant(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_unpickles(path: Path) -> None:
    assert list(findings(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "code", ["import pickle", "from dill import loads", "torch.load(f)", "np.load(f, allow_pickle=True)", "eval('1')"]
)
def test_it_would_be_found(code: str) -> None:
    assert list(findings(ast.parse(code))) != []
