"""`aps_deploy.convert`: an ordinary classifier becomes a shift-invariant one and keeps its weights.

The network is rewritten as a torch.fx graph, not by exchanging modules in place: which shortcut must follow which main
branch is a question about the flow of data, and an index must travel from one module to another, which a module's
forward pass has no room for. The price is that the forward pass must not depend on its data.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import fx, nn

from aps_deploy.conversion.analysis import analysed
from aps_deploy.conversion.converted import ConvertedModel, ConvertedSpec
from aps_deploy.conversion.plan import Head, Plan
from aps_deploy.conversion.rewriting import SamplerOptions, rewritten
from aps_deploy.conversion.tracing import PROBE_SIDE, traced
from aps_deploy.errors import InputError
from aps_deploy.layers import FILTER_SIZES
from aps_deploy.models.network import ModelOptions, SelectingNetwork
from aps_deploy.polyphase import Criterion, SelectionMode, resolve_criterion, resolve_selection_mode


def convert(
    model: nn.Module,
    *,
    filter_size: int = 1,
    criterion: Criterion | str = "l2",
    selection: SelectionMode | str = "exact",
    head: Head = None,
    name: str | None = None,
) -> ConvertedModel:
    """Return ``model`` with APS in place of its strides, circular padding and exact pooling; its weights are kept.

    Without a blur the result computes, for each image, what the original with circular padding computes for some shift
    of it, so that what was learnt stays useful; a blur smooths what later layers see and asks for fine-tuning. A stride
    of 4 becomes two selections by 2. Tried with torchvision's ResNet, ResNeXt, Wide ResNet, MobileNetV2 and V3,
    DenseNet, ConvNeXt, and VGG with ``head="gap"``, and with timm's ResNets, whose own blurs (``BlurPool2d``) are kept.

    Args:
        model: takes images (N, 3, H, W) and returns logits (N, classes); it is copied and left as it is.
        filter_size: of the binomial blur before each selection, 1 (none) to 7; a wider one of the network stays.
        criterion: the norm by which components are compared.
        selection: ``exact`` or ``float``; only exact selection is bit-identical under shifts.
        head: ``gap`` replaces the classifier of a network that flattens its last map by global average pooling and one
            new linear layer, which must be trained.
        name: of the architecture, for messages and files; None makes one of the class's name.

    Returns:
        A network in the mode (training or evaluation) of ``model``, on its device; its ``report`` says what was
        replaced.

    Raises:
        InputError: something in the network cannot be converted, or an option is unknown; the message names it.
    """
    if filter_size not in FILTER_SIZES:
        raise InputError(f"filter size {filter_size} is not available; choose 1 to {FILTER_SIZES[-1]}.")
    if head not in (None, "gap"):
        raise InputError(f"unknown head {head!r}; choose gap, or leave it out.")
    if isinstance(model, SelectingNetwork):
        raise InputError(f"{model.spec.name} is a network of this project already; use it as it is.")
    options = SamplerOptions(filter_size, resolve_criterion(criterion), resolve_selection_mode(selection))
    graph, shapes = traced(copy.deepcopy(model))
    plan = analysed(graph, shapes, head)
    num_classes = _last_linear(model).out_features if plan.cut is not None else shapes[_logits_name(graph)][1]
    spec = ConvertedSpec(
        name=f"converted:{type(model).__name__}_aps{filter_size}" if name is None else name,
        filter_size=filter_size,
        total_stride=_total_stride(plan),
        smallest_side=_smallest_side(plan, shapes, filter_size),
    )
    device = next((parameter.device for parameter in model.parameters()), None)
    converted, layers, report = rewritten(graph, shapes, plan, options, num_classes=num_classes)
    chosen = ModelOptions(num_classes, options.criterion, options.selection)
    result = ConvertedModel(converted, spec, chosen, layers, report).to(device)
    kept = {path: module.training for path, module in model.named_modules() if not list(module.children())}
    for path, module in result.named_modules():
        module.training = kept.get(path, model.training)
    return result


def _logits_name(graph: fx.GraphModule) -> str:
    output = next(node for node in graph.graph.nodes if node.op == "output")
    return str(output.args[0].name)


def _last_linear(model: nn.Module) -> nn.Linear:
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise InputError(
            f"head='gap' takes the number of classes from the last linear layer, and {type(model).__name__} has none."
        )
    return layers[-1]


def _total_stride(plan: Plan) -> int:
    total = 1
    for name in plan.output_grid:
        total *= plan.windows[name].stride
    return total


def _smallest_side(plan: Plan, shapes: Mapping[str, tuple[int, ...]], filter_size: int) -> int:
    """Return the smallest multiple of the total stride for which no padding is wider than the map it wraps."""
    total = _total_stride(plan)
    # An original node's output has the strides up to it behind it; its window stands on the map before its own.
    needed = total
    for node in plan.actions:
        window = plan.windows.get(node.name)
        if window is not None:
            scale = PROBE_SIDE // shapes[node.name][2] // window.stride
            needed = max(needed, max(window.reach) * scale)
            # Each selection by two blurs a map of half the side.
            blurred = scale * window.stride // 2 if window.stride > 1 else 0
            needed = max(needed, max(filter_size, plan.blurs.get(node.name, 1)) // 2 * blurred)
    return -(-needed // total) * total
