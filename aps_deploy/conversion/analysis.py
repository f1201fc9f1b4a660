"""Which values move with the image, on which grid, and what must be replaced so that all of them do.

Each value of the traced graph is one of three kinds. A `Moving` map goes around with the image; its *grid* names the
strided modules it went through. A `Still` value, such as a pooled vector, does not change at all. Anything else is a
number: a size or a shape. Where two maps are joined pixel by pixel they must lie on one grid, so the strided modules on
the two ways must choose alike: the first to run chooses, the others follow. That is how a residual shortcut is found,
whatever the block is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.models.convnext import LayerNorm2d

from aps_deploy.conversion.operators import (
    PIXELWISE_MODULES,
    POSITION_DEPENDENT,
    activation_name,
    called_module,
    called_name,
    is_dropout,
    is_global,
    is_join,
)
from aps_deploy.conversion.plan import Action, Head, Plan, module_name
from aps_deploy.conversion.timm_layers import is_blur, is_drop
from aps_deploy.conversion.windows import Window, circular_window
from aps_deploy.errors import InputError
from aps_deploy.layers import FILTER_SIZES


@dataclass(frozen=True)
class Moving:
    """A map that moves with the image: the names of the strided nodes it went through, and its axes' order."""

    grid: tuple[str, ...] = ()
    channels_last: bool = False


class Still:
    """A tensor that is the same wherever the image stands."""


class Number:
    """A size or a shape."""


Value = Moving | Still | Number
_STILL, _NUMBER = Still(), Number()
_GLOBAL_POOLS: dict[Action, Literal["mean", "maximum"]] = {"pool": "mean", "maximum": "maximum"}


class _Cut(Exception):
    """The last map was found; what follows is replaced."""


def _differs(shape: tuple[int, ...], value: Moving) -> bool:
    """Return whether a still value of a shape, joined with a map, is another at each of its positions."""
    # Broadcasting aligns the last axes.
    over_positions = (-3, -2) if value.channels_last else (-2, -1)
    return any(len(shape) >= -axis and shape[axis] != 1 for axis in over_positions)


def analysed(traced: fx.GraphModule, shapes: Mapping[str, tuple[int, ...]], head: Head) -> Plan:
    """Return what turns ``traced`` into a network whose answer does not depend on where the image stands.

    Args:
        traced: the graph, which is not changed.
        shapes: of its values.
        head: ``gap`` to replace the classifier of a network that flattens its last map.

    Raises:
        InputError: something in the network cannot be converted; the message names it.
    """
    analysis = _Analysis(traced, shapes, head)
    analysis.run()
    return analysis.plan


class _Analysis:
    def __init__(self, traced: fx.GraphModule, shapes: Mapping[str, tuple[int, ...]], head: Head) -> None:
        self.traced = traced
        self.shapes = shapes
        self.head = head
        self.plan = Plan()
        self.values: dict[fx.Node, Value] = {}
        self.order: list[str] = []

    def run(self) -> None:
        try:
            for node in self.traced.graph.nodes:
                if node.op == "output":
                    self._check_output(node)
                else:
                    self.values[node] = self._value(node)
        except _Cut:
            return
        if self.head == "gap":
            raise InputError(
                "head='gap' replaces the head of a network that flattens its last map, and "
                "this one pools it already; leave head out."
            )

    def _check_output(self, node: fx.Node) -> None:
        result = node.args[0]
        if not isinstance(result, fx.Node) or not isinstance(self.values[result], Still):
            raise InputError("a classifier is needed, and this network does not return one tensor of logits.")
        if len(self.shapes[result.name]) != 2:
            raise InputError(f"logits of shape (N, classes) are needed, and they are {self.shapes[result.name]}.")

    def _value(self, node: fx.Node) -> Value:
        if node.op == "placeholder":
            if self.values:
                raise InputError(f"a network of one input is needed, and this one also takes {node.target}.")
            return Moving()
        if node.op == "get_attr":
            return _STILL  # where it meets a map, its shape tells whether it belongs to positions
        inputs = [self.values[source] for source in node.all_input_nodes]
        if not any(isinstance(value, Moving) for value in inputs):
            return self._of_still(node)
        module = called_module(self.traced, node)
        return self._of_map(node, module)

    def _of_still(self, node: fx.Node) -> Value:
        if any(self.plan.actions.get(source) == "expand" for source in node.all_input_nodes):
            raise self._refused(node)
        if node.op == "call_module" and type(self.traced.get_submodule(str(node.target))) is nn.Linear:
            self.plan.actions[node] = "classifier"
        if is_dropout(node):
            self.plan.actions[node] = "dropout"
        return _STILL if node.name in self.shapes else _NUMBER

    def _of_map(self, node: fx.Node, module: nn.Module | None) -> Value:
        if is_join(node):
            return self._joined(node)
        if node.op == "call_method" and node.target == "expand_as":
            return self._expanded(node)
        value = self._single_map(node)
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and not value.channels_last:
            return self._windowed(node, module, value)
        if module is not None and is_blur(module) and not value.channels_last:
            return self._blurred(node, module, value)
        if is_drop(module):
            return value
        if is_dropout(node):
            self.plan.actions[node] = "dropout"
            return value
        if isinstance(module, PIXELWISE_MODULES) and not (value.channels_last and isinstance(module, nn.BatchNorm2d)):
            return value
        activation = activation_name(node, module)
        if activation is not None:
            if activation in POSITION_DEPENDENT:
                self.plan.position_dependent.append(f"{module_name(node)}: {activation}")
            return value
        if isinstance(module, nn.LayerNorm):
            return self._normalised(node, module, value)
        if type(module) is nn.Linear and value.channels_last:
            self.plan.actions[node] = "pixelwise"
            return value
        return self._rearranged(node, module, value)

    def _single_map(self, node: fx.Node) -> Moving:
        if node.op == "call_function" and node.target is torch.cat:
            return self._concatenated(node)
        num_maps = sum(isinstance(self.values[source], Moving) for source in node.all_input_nodes)
        first = node.args[0] if node.args else None
        value = self.values[first] if isinstance(first, fx.Node) else None
        if num_maps != 1 or not isinstance(value, Moving):
            raise self._refused(node)
        return value

    def _concatenated(self, node: fx.Node) -> Moving:
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        value = self._same_grid(node)
        all_move = all(isinstance(self.values[source], Moving) for source in node.all_input_nodes)
        if not all_move or axis != (3 if value.channels_last else 1):
            raise self._refused(node)
        return value

    def _joined(self, node: fx.Node) -> Value:
        value = self._same_grid(node)
        for source in node.all_input_nodes:
            shape = self.shapes.get(source.name, ())
            is_expanded = self.plan.actions.get(source) == "expand"
            if isinstance(self.values[source], Still) and not is_expanded and _differs(shape, value):
                raise InputError(
                    f"{module_name(node)} joins a map with a value of shape {shape}, which differs by position, so it "
                    "cannot be converted."
                )
        return value

    def _expanded(self, node: fx.Node) -> Still:
        """Allow for a still value that is repeated for every position only to be joined with a map, as joins do."""
        source, template = node.all_input_nodes[0], node.all_input_nodes[-1]
        value = self.values[template]
        if not isinstance(self.values[source], Still) or not isinstance(value, Moving):
            raise self._refused(node)
        if _differs(self.shapes[source.name], value) or not all(is_join(user) for user in node.users):
            raise self._refused(node)
        self.plan.actions[node] = "expand"
        return _STILL

    def _same_grid(self, node: fx.Node) -> Moving:
        maps = [value for source in node.all_input_nodes if isinstance(value := self.values[source], Moving)]
        first = maps[0]
        for other in maps[1:]:
            if len(first.grid) != len(other.grid) or first.channels_last != other.channels_last:
                raise InputError(f"{module_name(node)} joins maps that were strided differently.")
            for one, two in zip(first.grid, other.grid, strict=True):
                self._unify(node, one, two)
        return first

    def _unify(self, node: fx.Node, one: str, two: str) -> None:
        leaders = sorted({self._leader_of(one), self._leader_of(two)}, key=self.order.index)
        if len(leaders) == 2:
            if len({self.plan.windows[name].stride for name in leaders}) == 2:
                raise InputError(f"{module_name(node)} joins maps that were strided differently.")
            self.plan.leader[leaders[1]] = leaders[0]

    def _leader_of(self, name: str) -> str:
        while self.plan.leader[name] != name:
            name = self.plan.leader[name]
        return name

    def _windowed(self, node: fx.Node, module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d, value: Moving) -> Moving:
        if isinstance(module, nn.Conv2d) and module.padding_mode not in ("zeros", "circular"):
            raise InputError(f"{node.target} pads in mode {module.padding_mode}; zeros and circular can be converted.")
        if isinstance(module, nn.MaxPool2d) and module.return_indices:
            raise self._refused(node)
        window = circular_window(
            str(node.target),
            kernel=module.kernel_size,
            stride=module.stride,
            padding=module.padding,
            dilation=1 if isinstance(module, nn.AvgPool2d) else module.dilation,
            ceil_mode=not isinstance(module, nn.Conv2d) and module.ceil_mode,
        )
        self.plan.actions[node] = "window"
        return self._strided(node, window, value)

    def _blurred(self, node: fx.Node, module: nn.Module, value: Moving) -> Moving:
        # Beyond the border it reflects, or what it was told; all padding becomes circular.
        size, before = int(module.filt_size), int(module.padding[0])  # type: ignore[arg-type, index]
        window = circular_window(str(node.target), kernel=size, stride=int(module.stride), padding=before)  # type: ignore[arg-type]
        if size not in FILTER_SIZES:
            raise InputError(f"{node.target} blurs by {size} taps, and filters of 1 to {FILTER_SIZES[-1]} are known.")
        self.plan.blurs[node.name] = size
        self.plan.actions[node] = "blur"
        return self._strided(node, window, value)

    def _strided(self, node: fx.Node, window: Window, value: Moving) -> Moving:
        self.plan.windows[node.name] = window
        if window.stride == 1:
            return value
        self.plan.leader[node.name] = node.name
        self.order.append(node.name)
        return Moving((*value.grid, node.name))

    def _normalised(self, node: fx.Node, module: nn.LayerNorm, value: Moving) -> Moving:
        channels_first = isinstance(module, LayerNorm2d)
        if len(module.normalized_shape) != 1 or channels_first == value.channels_last:
            raise InputError(f"{node.target} normalises over positions, so it cannot be converted.")
        return value

    def _rearranged(self, node: fx.Node, module: nn.Module | None, value: Moving) -> Value:
        name = called_name(node)
        if node.op != "call_module" and name in ("size", "getattr"):
            return _NUMBER
        if name == "cat" and node.op == "call_function":
            return value
        if node.op != "call_module" and name == "permute":
            return self._permuted(node, value)
        for action, kind in _GLOBAL_POOLS.items():
            if not value.channels_last and is_global(node, module, kind):
                self.plan.actions[node] = action
                self.plan.output_grid = max(self.plan.output_grid, value.grid, key=len)
                return _STILL
        pools_to_patches = isinstance(module, nn.AdaptiveAvgPool2d) or node.target is F.adaptive_avg_pool2d
        flattens = isinstance(module, nn.Flatten) or name in ("flatten", "view", "reshape")
        if pools_to_patches or (flattens and len(self.shapes[node.name]) == 2):
            return self._flattened(node, value)
        raise self._refused(node)

    def _permuted(self, node: fx.Node, value: Moving) -> Moving:
        given = node.args[1:]
        axes = tuple(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else given
        if axes == ((0, 3, 1, 2) if value.channels_last else (0, 2, 3, 1)):
            return Moving(value.grid, not value.channels_last)
        raise self._refused(node)

    def _flattened(self, node: fx.Node, value: Moving) -> Value:
        if self.head == "gap" and not value.channels_last:
            self.plan.cut = node
            self.plan.output_grid = value.grid
            raise _Cut
        raise InputError(
            f"{module_name(node)} flattens its last map, so that its classifier weighs every position otherwise and no "
            "sampling can make it shift-invariant; head='gap' replaces it by global average pooling and one new linear "
            "layer, which must be trained."
        )

    def _refused(self, node: fx.Node) -> InputError:
        what = type(self.traced.get_submodule(str(node.target))).__name__ if node.op == "call_module" else "operation"
        return InputError(
            f"{module_name(node)} cannot be converted: what this {what} does with the positions of a map is not known."
        )
