"""Every operator of the library beside its body of standard operators, in ONNX Runtime itself."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from aps_deploy.export.bodies import index_function, select_function, take_function
from aps_deploy.export.op_names import DOMAIN, Choice
from aps_deploy.plugins.cpu.library import library_path

OPSET = 20
KERNEL_CRITERIA = ("l2", "l1", "l2_min", "l1_min")


def one_node(function: onnx.FunctionProto, filter_size: int, channels: int) -> onnx.ModelProto:
    """Return a file with one call of the function: its inputs X, [K], [I], its outputs [Y], [I] renamed J."""
    kinds = {"X": TensorProto.FLOAT, "K": TensorProto.FLOAT, "Y": TensorProto.FLOAT, "I": TensorProto.INT64}
    attributes: dict[str, Any] = {}
    if "K" in function.input:
        before = (filter_size - 1) // 2
        after = filter_size - 1 - before
        attributes = {"pads": [0, 0, before, before, 0, 0, after, after], "channels": channels}
    outputs = {name: "J" if name == "I" else name for name in function.output}
    node = helper.make_node(function.name, list(function.input), list(outputs.values()), domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, kinds[name], None) for name in function.input],
        [helper.make_tensor_value_info(new, kinds[name], None) for name, new in outputs.items()],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=10)


def run(model: onnx.ModelProto, feeds: dict[str, npt.NDArray[Any]], *, kernels: bool) -> list[npt.NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if kernels:
        options.register_custom_ops_library(str(library_path()))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs: list[npt.NDArray[Any]] = session.run(None, feeds)
    return outputs


def feeds_of(model: onnx.ModelProto, stride: int, filter_size: int) -> dict[str, npt.NDArray[Any]]:
    generator = np.random.default_rng(stride * 10 + filter_size)
    side = stride * 6 if stride > 2 else 14
    every = {
        "X": generator.standard_normal((4, 5, side, side + 2 * stride)).astype(np.float32),
        "K": generator.random((5, 1, filter_size, filter_size)).astype(np.float32),
        "I": generator.integers(0, stride**2, 4),
    }
    return {value.name: every[value.name] for value in model.graph.input}


@pytest.mark.parametrize("filter_size", [None, 2, 3, 5, 7])
@pytest.mark.parametrize(
    ("criterion", "stride"), [*itertools.product(KERNEL_CRITERIA, (2, 3)), ("l2", 4), ("l2", 8), ("l1", 8)]
)
def test_kernels_compute_what_the_bodies_say(criterion: str, stride: int, filter_size: int | None) -> None:
    blurred, choice = filter_size is not None, Choice(criterion, "exact", stride)
    for function in (
        index_function(choice, form="where", opset=OPSET, blurred=blurred),
        select_function(choice, form="where", opset=OPSET, blurred=blurred),
        take_function(stride, form="where", opset=OPSET, blurred=blurred),
    ):
        model = one_node(function, filter_size or 1, 5)
        feeds = feeds_of(model, stride, filter_size or 1)
        expected, found = run(model, feeds, kernels=False), run(model, feeds, kernels=True)
        for one, other in zip(expected, found, strict=True):
            if one.dtype == np.int64 or not blurred:
                np.testing.assert_array_equal(other, one)
            else:
                np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def test_kernels_are_what_runs() -> None:
    # A body that computes something else shows which of the two ran.
    function = select_function(Choice(), form="where", opset=OPSET)
    last = function.node[-1]
    function.node[-1].CopyFrom(helper.make_node("Neg", [last.input[1]], last.output))
    model = one_node(function, 1, 5)
    feeds = feeds_of(model, 2, 1)
    (by_body, _), (by_kernel, _) = run(model, feeds, kernels=False), run(model, feeds, kernels=True)
    assert not np.array_equal(by_body, by_kernel)


@pytest.mark.parametrize("choice", [Choice("linf"), Choice("max"), Choice("l2", "float")])
def test_operators_without_a_kernel_run_by_their_bodies(choice: Choice) -> None:
    model = one_node(select_function(choice, form="where", opset=OPSET), 1, 5)
    feeds = feeds_of(model, 2, 1)
    for one, other in zip(run(model, feeds, kernels=False), run(model, feeds, kernels=True), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"X": np.ones((4, 5, 7, 8), np.float32)}, "no multiples of the stride"),
        ({"X": np.ones((5, 8, 8), np.float32)}, "wrong rank"),
        ({"K": np.ones((4, 1, 3, 3), np.float32)}, r"not of shape \(C, 1, f, f\)"),
        ({"K": np.ones((5, 1, 9, 9), np.float32)}, "not of size 1 to 7"),
        ({"X": np.ones((4, 5, 2, 2), np.float32)}, "larger than the map"),
        ({"I": np.array([0, 1, 2, 4])}, "none of a polyphase component"),
        ({"I": np.array([0, 1, 2])}, "not one index for each image"),
    ],
)
def test_what_cannot_be_computed_is_an_error_of_the_session(changed: dict[str, npt.NDArray[Any]], message: str) -> None:
    model = one_node(take_function(2, form="where", opset=OPSET, blurred=True), 3, 5)
    with pytest.raises(Exception, match=message):
        run(model, feeds_of(model, 2, 3) | changed, kernels=True)


def test_many_sessions_side_by_side_share_the_library() -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = one_node(select_function(Choice(), form="where", opset=OPSET, blurred=True), 3, 5)
    feeds = feeds_of(model, 2, 3)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: run(model, feeds, kernels=True), range(24)))
    for taken, index in results:
        np.testing.assert_array_equal(taken, results[0][0])
        np.testing.assert_array_equal(index, results[0][1])
