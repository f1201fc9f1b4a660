"""The plan of an analysis carried out on the graph: new modules in, samplers between, indices handed on."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from aps_deploy.conversion.modules import (
    CircularConv2d,
    CircularPool2d,
    Follower,
    GlobalMaximum,
    GlobalPool,
    PixelwiseLinear,
    classifier_from_linear,
)
from aps_deploy.conversion.operators import activation_name, called_module
from aps_deploy.conversion.plan import Plan, module_name
from aps_deploy.conversion.report import ConversionReport, Sampled
from aps_deploy.conversion.ties import check_not_tied
from aps_deploy.conversion.timm_layers import is_drop
from aps_deploy.layers import APS, Blur, Classifier
from aps_deploy.polyphase import Criterion, SelectionMode

_NOT_IN_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
    "add_": "add",
    "mul_": "mul",
}


@dataclass(frozen=True)
class SamplerOptions:
    """How the new selections choose.

    Attributes:
        filter_size: of the blur before each selection, 1 (none) to 7.
        criterion: the norm by which components are compared.
        selection: ``exact`` or ``float``.
    """

    filter_size: int
    criterion: Criterion
    selection: SelectionMode


def rewritten(
    traced: fx.GraphModule,
    shapes: Mapping[str, tuple[int, ...]],
    plan: Plan,
    options: SamplerOptions,
    *,
    num_classes: int,
) -> tuple[fx.GraphModule, list[str], ConversionReport]:
    """Return the converted graph, which takes images and `aps_deploy.layers.Selections`, its layers and the report.

    Args:
        traced: the graph; it is changed.
        shapes: of its values.
        plan: what to do.
        options: of the selections.
        num_classes: of the new classifier, where the plan asks for one.
    """
    rewriting = _Rewriting(traced, shapes, plan, options)
    rewriting.undo_in_place()
    rewriting.replace_modules()
    rewriting.insert_samplers()
    if plan.cut is not None:
        rewriting.replace_head(plan.cut, num_classes)
    traced.graph.lint()
    result = fx.GraphModule(traced, traced.graph)
    return result, rewriting.layers, rewriting.report(None if plan.cut is None else num_classes)


class _Rewriting:
    def __init__(
        self, traced: fx.GraphModule, shapes: Mapping[str, tuple[int, ...]], plan: Plan, options: SamplerOptions
    ) -> None:
        self.traced = traced
        self.graph = traced.graph
        self.shapes = shapes
        self.plan = plan
        self.options = options
        self.layers: list[str] = []
        self.indices: dict[str, list[fx.Node]] = {}
        self.strided = [node for node in self.graph.nodes if node.name in plan.leader]
        self.position = {node: place for place, node in enumerate(self.graph.nodes)}
        self.replaced: dict[str, list[str]] = {"circular": [], "pooled": [], "products": []}
        self.layers_of: dict[str, tuple[str, ...]] = {}
        # Asked before samplers come between.
        self.last_map_name = "" if plan.cut is None else plan.cut.all_input_nodes[0].name

    def undo_in_place(self) -> None:
        """Let no step overwrite another's output: whoever looks at a module's output must see what the module made."""
        for module in self.traced.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        for node in self.graph.nodes:
            node.target = _NOT_IN_PLACE.get(node.target, node.target)
            if node.op == "call_function" and node.kwargs.get("inplace"):
                node.kwargs = {**node.kwargs, "inplace": False}

    def replace_modules(self) -> None:
        for node, action in self.plan.actions.items():
            if action == "window":
                self._make_circular(node)
            elif action == "blur":
                self._make_blur(node)
            elif action == "pool":
                self._make_exact(node)
            elif action == "maximum":
                self._make_module(node, GlobalMaximum(keeps_axes=len(self.shapes[node.name]) == 4))
            elif action == "expand":
                node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
                self.graph.erase_node(node)
            elif action == "dropout":
                self._make_module(node, nn.Dropout(float(str(node.kwargs.get("p", 0.5)))))
            else:
                self._make_product(node)

    def _make_circular(self, node: fx.Node) -> None:
        name, window = str(node.target), self.plan.windows[node.name]
        module = self.traced.get_submodule(name)
        if window.stride == 1 and not any(window.reach):
            return
        if isinstance(module, nn.Conv2d):
            if not isinstance(module, CircularConv2d):  # a module may be called twice
                self._set_module(name, CircularConv2d(module, window.reach))
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            self._set_module(name, CircularPool2d(module, window.reach))
        if window.stride == 1 and name not in self.replaced["circular"]:
            self.replaced["circular"].append(name)

    def _make_blur(self, node: fx.Node) -> None:
        name = str(node.target)
        if self.plan.windows[node.name].stride > 1:
            self._set_module(name, nn.Identity())  # the sampler blurs
        else:
            self._set_module(name, Blur(self.shapes[node.name][1], self.plan.blurs[node.name]))
            self.replaced["circular"].append(name)

    def _make_exact(self, node: fx.Node) -> None:
        keeps_axes = len(self.shapes[node.name]) == 4
        self.replaced["pooled"].append(module_name(node))
        self._make_module(node, GlobalPool(keeps_axes=keeps_axes))

    def _make_product(self, node: fx.Node) -> None:
        name = str(node.target)
        module = self.traced.get_submodule(name)
        if type(module) is nn.Linear:
            pixelwise = self.plan.actions[node] == "pixelwise"
            self._set_module(name, PixelwiseLinear(module) if pixelwise else classifier_from_linear(module))
            self.replaced["products"].append(name)

    def _make_module(self, node: fx.Node, module: nn.Module) -> None:
        """Let ``node`` call ``module`` on its first argument, whatever it called before."""
        name = str(node.target) if node.op == "call_module" else self._free_name(node.name)
        self._set_module(name, module)
        node.op, node.target, node.args, node.kwargs = "call_module", name, (node.args[0],), {}

    def _set_module(self, name: str, module: nn.Module) -> None:
        self.traced.add_submodule(name, module)

    def _free_name(self, name: str) -> str:
        taken = {path for path, _ in self.traced.named_modules()}
        count = 1
        free = name
        while free in taken:
            count += 1
            free = f"{name}_{count}"
        return free

    def insert_samplers(self) -> None:
        images = next(iter(self.graph.nodes))
        with self.graph.inserting_after(images):
            self.selections = self.graph.placeholder("selections")
        for node in self.strided:
            leader = self._leader_of(node.name)
            if leader == node.name:
                self._lead(node)
            else:
                self._follow(node, self.indices[leader])

    def _leader_of(self, name: str) -> str:
        while self.plan.leader[name] != name:
            name = self.plan.leader[name]
        return name

    def _followers_of(self, node: fx.Node) -> list[fx.Node]:
        return [other for other in self.strided if other is not node and self._leader_of(other.name) == node.name]

    def _lead(self, node: fx.Node) -> None:
        tail = self._tail(node)
        own_blur, filter_size = self.plan.blurs.get(node.name, 1), self._filter_size(node)
        check_not_tied(self.traced, node, tail, self.options.criterion, filter_size, own_blur=own_blur)
        current, indices, layers = tail, [], []
        for _ in range(self.plan.windows[node.name].num_selections):
            name = self._free_name(f"{node.target}_sampler")
            self._set_module(name, self._sampler(self.shapes[tail.name][1], name, filter_size))
            with self.graph.inserting_after(current):
                pair = self.graph.call_module(name, (current, self.selections))
            current.replace_all_uses_with(pair, delete_user_cb=lambda user, own=pair: user is not own)  # type: ignore[misc]
            with self.graph.inserting_after(pair):
                index = self.graph.call_function(operator.getitem, (pair, 1))
                kept = self.graph.call_function(operator.getitem, (pair, 0))
            pair.replace_all_uses_with(kept, delete_user_cb=lambda user, own=(kept, index): user not in own)  # type: ignore[misc]
            current = kept
            indices.append(index)
            layers.append(name)
        self.indices[node.name] = indices
        self.layers_of[node.name] = tuple(layers)
        self.layers.extend(layers)

    def _tail(self, node: fx.Node) -> fx.Node:
        """Return the node behind which a leader samples: its batch norm and activation, as in the authors' networks.

        The components of what they make have the norms the criterion means; LayerNorm would make all norms alike.
        """
        first_follower = min((self.position[other] for other in self._followers_of(node)), default=len(self.position))
        tail = current = node
        # A blur of the network's own stays where it was, right in front of the sampling.
        while len(current.users) == 1 and node.name not in self.plan.blurs:
            (current,) = current.users
            module = called_module(self.traced, current)
            pointwise = isinstance(module, nn.BatchNorm2d) or activation_name(current, module) is not None
            if not (pointwise or is_drop(module)) or self.position[current] > first_follower:
                break
            tail = current if pointwise else tail
        return tail

    def _filter_size(self, node: fx.Node) -> int:
        """Return the size of the blur in a sampler: the network's own where that is wider than the one asked for."""
        return max(self.options.filter_size, self.plan.blurs.get(node.name, 1))

    def _sampler(self, channels: int, name: str, filter_size: int) -> APS:
        options = self.options
        sampler = APS(channels, filter_size=filter_size, criterion=options.criterion, selection=options.selection)
        sampler.layer_name = name
        return sampler

    def _follow(self, node: fx.Node, indices: list[fx.Node]) -> None:
        module = self.traced.get_submodule(str(node.target))
        source = node.args[0]
        assert isinstance(source, fx.Node)
        # A 1x1 convolution of the kept component costs a quarter of one of the whole map.
        before = isinstance(module, nn.Conv2d) and not any(self.plan.windows[node.name].reach)
        channels = self.shapes[source.name][1] if before else self.shapes[node.name][1]
        current = source if before else node
        taken: list[fx.Node] = []
        for index in indices:
            name = self._free_name(f"{node.target}_follower")
            self._set_module(name, Follower(channels, filter_size=self._filter_size(node), name=name))
            place = self.graph.inserting_before(node) if before else self.graph.inserting_after(current)
            with place:
                current = self.graph.call_module(name, (current, index))
            taken.append(current)
        if before:
            node.args = (current, *node.args[1:])
        else:
            node.replace_all_uses_with(current, delete_user_cb=lambda user: user not in taken)

    def replace_head(self, flattening: fx.Node, num_classes: int) -> None:
        last_map = flattening.args[0]
        assert isinstance(last_map, fx.Node)
        channels = self.shapes[self.last_map_name][1]
        pool, head = self._free_name("gap"), self._free_name("gap_head")
        self._set_module(pool, GlobalPool(keeps_axes=False))
        self._set_module(head, Classifier(channels, num_classes))
        self.replaced["pooled"].append(module_name(flattening))
        with self.graph.inserting_after(last_map):
            pooled = self.graph.call_module(pool, (last_map,))
        with self.graph.inserting_after(pooled):
            logits = self.graph.call_module(head, (pooled,))
        output = next(node for node in self.graph.nodes if node.op == "output")
        output.args = (logits,)
        self.graph.eliminate_dead_code()

    def report(self, new_head: int | None) -> ConversionReport:
        sampled = [
            Sampled(
                str(node.target),
                self.plan.windows[node.name].stride,
                self.layers_of[node.name],
                tuple(str(other.target) for other in self._followers_of(node)),
                self._filter_size(node),
            )
            for node in self.strided
            if node.name in self.layers_of
        ]
        return ConversionReport(
            tuple(sampled),
            tuple(self.replaced["circular"]),
            tuple(self.replaced["pooled"]),
            tuple(self.replaced["products"]),
            new_head,
            tuple(self.plan.position_dependent),
        )
