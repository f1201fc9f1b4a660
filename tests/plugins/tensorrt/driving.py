"""Drives the plugins as TensorRT does when it builds an engine, with its real Python part; prints what they answer.

Run in a process of its own (see `bindings`): cases come as JSON on standard input, and answers go out on the last line.
What TensorRT's library would bring is replaced by plain Python: the registry of plugins, and symbolic sizes, which are
numbers here.
"""

from __future__ import annotations

import json
import sys
import types
from typing import Any

import tensorrt as trt
import tensorrt.plugin as trtp
import tensorrt_bindings.plugin._tensor as symbols

from aps_deploy.plugins.tensorrt.kernels import Target
from aps_deploy.plugins.tensorrt.ptx import entry_point
from aps_deploy.plugins.tensorrt.registration import PluginLibrary


class Registry:
    """Creators by (name, version, namespace)."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> None:
        self.creators[creator.name, creator.plugin_version, namespace] = creator

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators[name, version, namespace]


class Size:
    """A symbolic size whose value is known, so that expressions of it can be compared with numbers."""

    def __init__(self, value: int) -> None:
        self.value = value

    def is_constant(self) -> bool:
        return True

    def get_constant_value(self) -> int:
        return self.value


class Expressions:
    """TensorRT's builder of symbolic expressions."""

    def constant(self, value: int) -> Size:
        return Size(value)

    def operation(self, operation: Any, first: Size, second: Size) -> Size:
        a, b = first.value, second.value
        results = {
            "SUM": lambda: a + b,
            "SUB": lambda: a - b,
            "PROD": lambda: a * b,
            "FLOOR_DIV": lambda: a // b,
            "CEIL_DIV": lambda: -(-a // b),
        }
        return Size(results[operation.name]())


class Sizes(list[Any]):
    """TensorRT's DimsExprs."""

    def __init__(self, length: int) -> None:
        super().__init__([None] * length)


class Integers(dict[int, int]):
    """TensorRT's list of a launch's integers."""

    nbSymExprs = -1


def tensor(kind: Any, shape: Any, layout: Any) -> Any:
    """Return the description of a tensor that TensorRT hands to plugins."""
    description, dynamic = trt.PluginTensorDesc(), trt.DynamicPluginTensorDesc()
    description.type, description.format, description.dims = kind, layout, trt.Dims(tuple(shape))
    dynamic.desc = description
    return dynamic


def drive(registry: Registry, case: dict[str, Any]) -> dict[str, Any]:
    """Return what a plugin answers: types and shapes of its outputs, and a launch for every layout it offers."""
    creator = registry.get_creator(case["op_type"], "1", "aps")
    request = trt.QuickPluginCreationRequest.UNKNOWN
    fields = trt.PluginFieldCollection([])
    plugin = creator.create_plugin(case["op_type"], "aps", fields, trt.TensorRTPhase.BUILD, request)
    kinds = [getattr(trt.DataType, name) for name in case["types"]]
    made = list(plugin.get_output_data_types(kinds, [len(shape) for shape in case["shapes"]]))
    sizes = [[Size(value) for value in shape] for shape in case["shapes"]]
    shapes = [[size.value for size in shape] for shape in plugin.get_output_shapes(sizes, [], Expressions())]
    types_, all_shapes, num_inputs = [*kinds, *made], [*case["shapes"], *shapes], len(kinds)
    linear = [tensor(kind, shape, trt.TensorFormat.LINEAR) for kind, shape in zip(types_, all_shapes, strict=True)]
    offered = plugin.get_supported_format_combinations(linear, num_inputs)
    launches = []
    for first in range(0, len(offered), len(types_)):
        layouts = offered[first : first + len(types_)]
        described = [tensor(each.type, shape, each.format) for each, shape in zip(layouts, all_shapes, strict=True)]
        launches.append(launch(plugin, described, num_inputs))
    return {"types": [kind.name for kind in made], "shapes": shapes, "launches": launches}


def launch(plugin: Any, described: list[Any], num_inputs: int) -> dict[str, Any]:
    """Return how a plugin is launched for tensors of chosen types and layouts."""
    inputs, outputs = described[:num_inputs], described[num_inputs:]
    plugin.configure_plugin(inputs, outputs)
    assert plugin.get_valid_tactics() == []
    plugin.set_tactic(0)
    dimensions, integers = types.SimpleNamespace(), Integers()
    plugin.get_launch_params(None, described, num_inputs, dimensions, integers, Expressions())
    name, ptx = plugin.get_kernel([each.desc for each in inputs], [each.desc for each in outputs])
    entry = entry_point(ptx.decode())
    assert entry.name == name and integers.nbSymExprs == len(integers)
    return {
        "types": [each.desc.type.name for each in described],
        "layouts": [each.desc.format.name for each in described],
        "launch": vars(dimensions),
        "integers": [integers[position] for position in range(len(integers))],
        "kernel": name,
        "parameters": list(entry.parameters),
        "num_threads": entry.num_threads,
        "target": entry.target,
    }


def main() -> None:
    request = json.load(sys.stdin)
    registry = Registry()
    trt.get_plugin_registry = lambda: registry
    trt.IDimensionExpr, trt.DimsExprs = Size, Sizes
    symbols.SymExprImpl = lambda integer: integer._expr.value
    library = PluginLibrary(trt)
    op_types = [case["op_type"] for case in request["cases"]]
    library.register(op_types, Target(request["compute_capability"]))
    library.register(op_types, Target(request["compute_capability"]))  # the second time changes nothing
    answers = {
        "version": trt.__version__,
        "registered": sorted(name for name, _, _ in registry.creators),
        "namespaces": sorted({namespace for _, _, namespace in registry.creators}),
        "defined": sorted(name for name in vars(trtp.op.aps) if name.startswith("Polyphase")),
        "cases": [drive(registry, case) for case in request["cases"]],
    }
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
