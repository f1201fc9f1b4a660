"""Registers the operators as TensorRT's quickly deployable plugins, compiled ahead of time.

The plugins live in the process that builds the engine. What goes into the engine is PTX, grids and arguments, so
whoever loads it needs neither this package nor Python. TensorRT from 10.9 on; TensorRT for RTX has no plugins, and its
parser ends the process where one is registered, so it is never given any.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import GenericAlias
from typing import Any

from aps_deploy.errors import ApsError
from aps_deploy.plugins.tensorrt.interfaces import combination_of, launch_of, outputs_of
from aps_deploy.plugins.tensorrt.kernels import Target, compiled_kernel
from aps_deploy.plugins.tensorrt.operators import NAMESPACE, PluginOperator, operator_of


class PluginLibrary:
    """The plugins of one TensorRT module; they stay registered until the process ends.

    Args:
        trt: the package tensorrt.

    Attributes:
        target: what kernels are compiled for from now on; None until the first `register`.
    """

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self._trtp = importlib.import_module(f"{trt.__name__}.plugin")
        self._registered: set[str] = set()
        self.target: Target | None = None

    @property
    def registered(self) -> frozenset[str]:
        """Types of the operators that have their plugin."""
        return frozenset(self._registered)

    def register(self, op_types: Iterable[str], target: Target) -> None:
        """Register the plugins of these operators, where they are not yet, and compile for ``target`` from now on.

        Raises:
            ApsError: a type that has no plugin.
        """
        self.target = target
        for op_type in dict.fromkeys(op_types):
            operator = operator_of(op_type)
            if operator is None:
                raise ApsError(f"there is no plugin for the operator {op_type}.")
            if op_type not in self._registered:
                self._define(operator)
                self._registered.add(op_type)

    def _define(self, operator: PluginOperator) -> None:
        trtp, name = self._trtp, f"{NAMESPACE}::{operator.op_type}"
        tensor, num_outputs = trtp.TensorDesc, operator.num_outputs

        def describe(*inputs: Any) -> Any:
            outputs = outputs_of(operator, inputs, self._trt, trtp)
            return outputs if num_outputs > 1 else outputs[0]

        def offer(*tensors: Any) -> Any:
            return [combination_of(operator, tensors[: operator.num_inputs], trtp)]

        def implement(*tensors: Any) -> Any:
            assert self.target is not None
            inputs = tensors[: operator.num_inputs]
            kernel = compiled_kernel(operator, inputs[0], self.target)
            threads, shared = kernel.num_threads, kernel.shared_bytes
            launch, integers = launch_of(operator, inputs, trtp, num_threads=threads, shared_bytes=shared)
            return kernel.name, kernel.ptx, launch, integers

        inputs = {f"input_{number}": tensor for number in range(operator.num_inputs)}
        outputs = {"outputs": GenericAlias(tuple, (tensor,) * num_outputs)}
        described = outputs["outputs"] if num_outputs > 1 else tensor
        made = GenericAlias(tuple, (str, str, trtp.KernelLaunchParams, trtp.SymIntExprs))
        trtp.register(name)(_signed(describe, inputs, described))
        trtp.autotune(name)(_signed(offer, {**inputs, **outputs}, GenericAlias(list, (trtp.AutoTuneCombination,))))
        trtp.aot_impl(name)(_signed(implement, {**inputs, **outputs, "tactic": int}, made))


def _signed(function: Callable[..., Any], parameters: Mapping[str, Any], returns: Any) -> Callable[..., Any]:
    """Return a function that shows these parameters and types: TensorRT reads the interface of a plugin off them."""
    shown = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind)
        for name, kind in parameters.items()
    ]
    function.__signature__ = inspect.Signature(shown, return_annotation=returns)  # type: ignore[attr-defined]
    return function
