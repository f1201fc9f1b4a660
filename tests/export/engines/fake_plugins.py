"""``tensorrt.plugin`` beside `fake_tensorrt`: keeps what is registered. The real one is driven elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

INTERFACES: dict[str, Callable[..., Any]] = {}
LAYOUTS: dict[str, Callable[..., Any]] = {}
KERNELS: dict[str, Callable[..., Any]] = {}


class TensorDesc:
    pass


class KernelLaunchParams:
    pass


class SymIntExprs:
    pass


class AutoTuneCombination:
    pass


def register(name: str) -> Callable[..., Any]:
    assert name not in INTERFACES, "TensorRT refuses a second plugin of the name"
    return _keep(INTERFACES, name)


def autotune(name: str) -> Callable[..., Any]:
    return _keep(LAYOUTS, name)


def aot_impl(name: str) -> Callable[..., Any]:
    return _keep(KERNELS, name)


def _keep(table: dict[str, Callable[..., Any]], name: str) -> Callable[..., Any]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        table[name] = function
        return function

    return decorate
