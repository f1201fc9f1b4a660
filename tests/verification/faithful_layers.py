"""Rewritings that write layers in other operators of the same meaning; see `faithful`."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.verification.sabotage import constant, initializer, insert_after, nodes, replace
from tests.verification.sabotage_network import reweighted


def unfolded_batch_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every convolution with a bias its batch norm back, of other statistics than those it was folded from."""
    generator = np.random.default_rng(0)
    for convolution in [node for node in nodes(model, "Conv") if len(node.input) == 3]:
        weight, bias = convolution.input[1:]
        values = numpy_helper.to_array(initializer(model, bias))
        scale, variance = (generator.uniform(0.5, 2.0, len(values)) for _ in range(2))
        mean = generator.normal(0.0, 0.1, len(values))
        by_channel = (np.sqrt(variance + 1e-5) / scale)[:, None, None, None]
        reweighted(weight, lambda array, factor=by_channel: array * factor)(model)  # type: ignore[misc]
        shift = values + mean * scale / np.sqrt(variance + 1e-5)
        statistics = {"scale": scale, "shift": shift, "mean": mean, "variance": variance}
        names = [constant(model, f"{weight}_{what}", value, np.float32) for what, value in statistics.items()]
        output = convolution.output[0]
        del convolution.input[2]
        convolution.output[0] = f"{output}_before_norm"
        norm = helper.make_node("BatchNormalization", [convolution.output[0], *names], [output], epsilon=1e-5)
        replace(model, convolution, convolution, norm)
    return model


def bias_as_addition(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add the bias of every convolution, and of the classifier, in a node of its own."""
    for convolution in [node for node in nodes(model, "Conv") if len(node.input) == 3]:
        values = numpy_helper.to_array(initializer(model, convolution.input[2]))
        column = constant(model, f"{convolution.input[2]}_column", values[None, :, None, None], np.float32)
        output = convolution.output[0]
        del convolution.input[2]
        convolution.output[0] = f"{output}_unbiased"
        replace(model, convolution, convolution, helper.make_node("Add", [convolution.output[0], column], [output]))
    return model


def classifier_as_product(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write Gemm as MatMul and Add."""
    gemm = nodes(model, "Gemm")[0]
    source, weight, bias = gemm.input
    across = constant(model, "classifier", numpy_helper.to_array(initializer(model, weight)).T, np.float32)
    product = helper.make_node("MatMul", [source, across], ["product"], name="fc/MatMul")
    replace(model, gemm, product, helper.make_node("Add", ["product", bias], list(gemm.output), name="fc/Add"))
    return model


def relu_as_maximum(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write half of the Relus as Max with 0, the others as Clip."""
    zero = constant(model, "nought", 0.0, np.float32)
    for number, relu in enumerate(nodes(model, "Relu")):
        kind = "Max" if number % 2 else "Clip"
        replace(model, relu, helper.make_node(kind, [relu.input[0], zero], list(relu.output), name=relu.name))
    return model


def padding_by_slices(model: onnx.ModelProto) -> onnx.ModelProto:
    """Pad circularly with Slice and Concat, as for runtimes whose Pad knows no mode wrap."""
    for pad in nodes(model, "Pad"):
        amounts = numpy_helper.to_array(initializer(model, pad.input[1])).reshape(2, 4)
        value = pad.input[0]
        added = []
        for axis in (2, 3):
            before, after = (int(amount) for amount in amounts[:, axis])
            names = [constant(model, f"{pad.output[0]}_{axis}_{number}", [number], np.int64)
                     for number in (-before, 2**31 - 1, 0, after, axis)]  # fmt: skip
            ends = [f"{pad.output[0]}_{axis}_{end}" for end in ("last", "first")]
            joined = pad.output[0] if axis == 3 else f"{pad.output[0]}_rows"
            added += [
                helper.make_node("Slice", [value, names[0], names[1], names[4]], [ends[0]]),
                helper.make_node("Slice", [value, names[2], names[3], names[4]], [ends[1]]),
                helper.make_node("Concat", [ends[0], value, ends[1]], [joined], axis=axis),
            ]
            value = joined
        replace(model, pad, *added)
    return model


def permuted_channels(model: onnx.ModelProto) -> onnx.ModelProto:
    """Number the channels between two convolutions of a block otherwise: the same sums in another order."""
    order = np.random.default_rng(0).permutation(32)
    for name in ("layer2.1.conv1.weight", "layer2.1.conv1.bias"):
        reweighted(name, lambda values: values[order])(model)
    reweighted("layer2.1.conv2.weight", lambda weight: weight[:, order])(model)
    return model


def swapped_summands(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add the shortcut to the branch instead of the branch to the shortcut."""
    for total in nodes(model, "Add"):
        total.input[:] = list(total.input)[::-1]
    return model


def dropout_left_in(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep a Dropout in front of the classifier, which does nothing outside training."""
    pooled = nodes(model, "Gemm")[0].input[0]
    ratio = constant(model, "ratio", 0.5, np.float32)
    insert_after(model, pooled, [helper.make_node("Dropout", [pooled, ratio], ["kept"], name="dropout")])
    return model
