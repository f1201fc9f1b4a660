"""Edits that break the network around the selections: its layers, its input, its classes and what surrounds an image.

Like those of `sabotage`, each takes an inlined model and changes it; each leaves the selections' own arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from tests.verification.sabotage import Edit, constant, initializer, insert_after, nodes, replace

Weights = npt.NDArray[np.float32]


def reweighted(name: str, change: Callable[[Weights], Weights]) -> Edit:
    """Return an edit that puts ``change`` of an initializer in its place."""

    def edit(model: onnx.ModelProto) -> None:
        tensor = initializer(model, name)
        values = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()), dtype=np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return edit


def _after_map(added: Callable[[onnx.ModelProto, str], list[onnx.NodeProto]], inside: str = "layer1.1/Relu_1") -> Edit:
    """Return an edit that puts nodes behind the Relu of that name, all of whose readers then see the last of them."""

    def edit(model: onnx.ModelProto) -> None:
        value = nodes(model, "Relu", inside)[0].output[0]
        insert_after(model, value, added(model, value))

    return edit


def _after_logits(added: Callable[[onnx.ModelProto, str], list[onnx.NodeProto]]) -> Edit:
    """Return an edit that puts nodes behind the classifier; the last of them makes the logits."""

    def edit(model: onnx.ModelProto) -> None:
        gemm = nodes(model, "Gemm")[0]
        gemm.output[0] = "own"
        new = added(model, "own")
        new[-1].output[0] = "logits"
        model.graph.node.extend(new)

    return edit


def blur_off_by_one(model: onnx.ModelProto) -> None:
    """Pad the blur of the main branch on one side only: the same filter, one pixel away."""
    pad = nodes(model, "Pad", "layer2.0.pool.blur")[0]
    pad.input[1] = constant(model, "one_sided", [0, 0, 2, 2, 0, 0, 0, 0], np.int64)


box_blur = reweighted("layer2.0.pool.blur.kernel", lambda kernel: np.full_like(kernel, 1 / 9))
swapped_colours = reweighted("conv1.weight", lambda weight: weight[:, ::-1])
truncated_weights = reweighted(
    # The upper half of each number's bits: bfloat16 by cutting off.
    "layer2.1.conv1.weight",
    lambda weight: (weight.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
)
negated_class = reweighted("fc.weight", lambda weight: weight * np.where(np.arange(7) == 2, -1, 1)[:, None])


def stale_batch_norm(model: onnx.ModelProto) -> None:
    """Fold a layer with the running variance of another moment, 10 % away in every channel."""
    factors = 1 + 0.1 * np.random.default_rng(0).choice([-1.0, 1.0], 32)
    reweighted("layer2.1.conv2.weight", lambda weight: weight * factors[:, None, None, None])(model)
    reweighted("layer2.1.conv2.bias", lambda bias: bias * factors)(model)


def permuted_classes(model: onnx.ModelProto) -> None:
    """Give the classes in another order."""
    for name in ("fc.weight", "fc.bias"):
        reweighted(name, lambda values: np.roll(values, 1, axis=0))(model)


def other_normalisation(model: onnx.ModelProto) -> None:
    """Subtract another mean and divide by another deviation than the network was trained with."""
    mean = constant(model, "other_mean", [[[[0.1]], [[0.05]], [[-0.1]]]], np.float32)
    deviation = constant(model, "other_deviation", [[[[0.9]], [[1.0]], [[1.1]]]], np.float32)
    first = nodes(model, "Pad", "conv1/Pad")[0]
    added = [
        helper.make_node("Sub", [first.input[0], mean], ["centred"]),
        helper.make_node("Div", ["centred", deviation], ["normalised"]),
    ]
    first.input[0] = "normalised"
    replace(model, first, *added, first)


def dropped_shortcut(model: onnx.ModelProto) -> None:
    total = nodes(model, "Add", "layer3.2/Add")[0]
    replace(model, total, helper.make_node("Identity", [total.input[0]], list(total.output)))


def leaky_relu(model: onnx.ModelProto) -> None:
    relu = nodes(model, "Relu", "layer1.2/Relu")[0]
    replace(model, relu, helper.make_node("LeakyRelu", list(relu.input), list(relu.output), alpha=0.1))


def shortcut_of_a_fixed_grid(model: onnx.ModelProto) -> None:
    """Let the shortcut take component 0 whatever the main branch selected."""
    taken = nodes(model, "Unsqueeze", "taken/Unsqueeze_1")[0]
    index = taken.input[0]
    taken.input[0] = "fixed_index"
    replace(model, taken, helper.make_node("Sub", [index, index], ["fixed_index"]), taken)


def topk_for_chain(model: onnx.ModelProto) -> None:
    """Take the index from TopK, which says nothing of the order of ties."""
    index = nodes(model, "Squeeze", "polyphase_index")[0]
    scores = nodes(model, "Gather", "polyphase_scores")[0].output[0]
    one = constant(model, "one_of_them", [1], np.int64)
    best = helper.make_node("TopK", [scores, one], ["best_score", "best_index"], axis=1, name="best_by_topk")
    replace(model, index, best, helper.make_node("Squeeze", ["best_index", index.input[1]], list(index.output)))


def position_dependent(amount: float) -> Edit:
    """Return an edit that adds a ramp over rows and columns to a feature map, ``amount`` at its far corner."""

    def ramp(model: onnx.ModelProto, value: str) -> list[onnx.NodeProto]:
        side = np.linspace(0, 0.5, 16)
        name = constant(model, "ramp", amount * (side[:, None] + side)[None, None], np.float32)
        return [helper.make_node("Add", [value, name], ["with_position"], name="position")]

    return _after_map(ramp)


def blind_half(model: onnx.ModelProto) -> None:
    """Look at the left half of the image only."""
    first = nodes(model, "Pad", "conv1/Pad")[0]
    mask = constant(model, "left_half", np.repeat([1.0, 0.0], 8)[None, None, None], np.float32)
    masked = helper.make_node("Mul", [first.input[0], mask], ["half_seen"])
    first.input[0] = "half_seen"
    replace(model, first, masked, first)


def slot_dependent(amount: float) -> Edit:
    """Return an edit that adds the place in the batch, times ``amount``, to the logits."""

    def places(model: onnx.ModelProto, value: str) -> list[onnx.NodeProto]:
        first, width = constant(model, "first_axis", [0], np.int64), constant(model, "step", amount, np.float32)
        zero, one = (constant(model, f"number_{number}", number, np.int64) for number in (0, 1))
        return [
            helper.make_node("Shape", [value], ["rows"], start=0, end=1),
            helper.make_node("Squeeze", ["rows", first], ["num_rows"]),
            helper.make_node("Range", [zero, "num_rows", one], ["place"]),
            helper.make_node("Cast", ["place"], ["real_place"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", ["real_place", width], ["offset"]),
            helper.make_node("Unsqueeze", ["offset", constant(model, "last_axis", [1], np.int64)], ["column"]),
            helper.make_node("Add", [value, "column"], [""]),
        ]

    return _after_logits(places)


def noise(model: onnx.ModelProto) -> None:
    """Add noise far below every tolerance to the logits."""
    _after_logits(
        lambda _, value: [
            helper.make_node("RandomNormalLike", [value], ["noise"], scale=1e-5),
            helper.make_node("Add", [value, "noise"], [""]),
        ]
    )(model)


def biased_logits(model: onnx.ModelProto) -> None:
    """Add to every logit what no elementwise tolerance sees."""
    small = constant(model, "bias_for_all", 5e-4, np.float32)
    _after_logits(lambda _, value: [helper.make_node("Add", [value, small], [""])])(model)
