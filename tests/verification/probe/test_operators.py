"""Which operators treat all positions alike in ONNX Runtime on a CPU: the list of docs/design.md."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from aps_deploy.verification.probe.walking import Walk

CHANNELS = 16
SIZES = [(5, 9), (14, 14), (18, 22)]
Steps = list[tuple[str, list[str], dict[str, object]]]

POINTWISE = ("Abs", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Relu", "Sigmoid",
             "Softplus", "Tanh")  # fmt: skip
REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMean", "ReduceSum", "ReduceSumSquare")
PADDED: dict[str, Steps] = {
    f"Conv {side}x{side}": [("Pad", ["x", f"pad{side}"], {"mode": "wrap"}), ("Conv", ["v0", f"conv{side}"], {})]
    for side in (3, 5)
} | {
    "Conv 3x3 depthwise": [
        ("Pad", ["x", "pad3"], {"mode": "wrap"}), ("Conv", ["v0", "depthwise"], {"group": CHANNELS})
    ],
    "Conv 3x3, SiLU": [
        ("Pad", ["x", "pad3"], {"mode": "wrap"}), ("Conv", ["v0", "conv3"], {}), ("Sigmoid", ["v1"], {}),
        ("Mul", ["v1", "v2"], {}),
    ],
    "AveragePool 3x3": [
        ("Pad", ["x", "pad3"], {"mode": "wrap"}), ("AveragePool", ["v0"], {"kernel_shape": [3, 3]})
    ],
}  # fmt: skip
ALIKE: dict[str, Steps] = {
    **{name: [(name, ["x"], {})] for name in POINTWISE},
    **{f"{name} over channels": [(name, ["x", "channels"], {})] for name in REDUCTIONS},
    **PADDED,
    "Conv 1x1": [("Conv", ["x", "conv1"], {})],
    "Softmax over channels": [("Softmax", ["x"], {"axis": 1})],
    "GlobalMaxPool": [("GlobalMaxPool", ["x"], {})],
    "Resize by repeating": [("Resize", ["x", "", "scales"], {"mode": "nearest", "nearest_mode": "floor",
                                                             "coordinate_transformation_mode": "asymmetric"})],
    "MatMul of channels last": [("Transpose", ["x"], {"perm": [0, 2, 3, 1]}), ("MatMul", ["v0", "matrix"], {})],
    "LayerNormalization of channels last": [
        ("Transpose", ["x"], {"perm": [0, 2, 3, 1]}), ("LayerNormalization", ["v0", "ones", "zeros"], {"axis": -1})
    ],
}  # fmt: skip
BY_POSITION: dict[str, Steps] = {
    **{f"{name} over a map": [(name, ["x", "positions"], {})] for name in REDUCTIONS},
    "GlobalAveragePool": [("GlobalAveragePool", ["x"], {})],
    "GroupNormalization": [("GroupNormalization", ["x", "ones", "zeros"], {"num_groups": 4})],
    "InstanceNormalization": [("InstanceNormalization", ["x", "ones", "zeros"], {})],
    "Resize linear": [("Resize", ["x", "", "scales"], {"mode": "linear"})],
}


def _walk(steps: Steps, height: int, width: int) -> Walk:
    generator = np.random.default_rng(0)
    shapes = {"conv1": (CHANNELS, CHANNELS, 1, 1), "conv3": (CHANNELS, CHANNELS, 3, 3),
              "conv5": (CHANNELS, CHANNELS, 5, 5), "depthwise": (CHANNELS, 1, 3, 3),
              "matrix": (CHANNELS, CHANNELS)}  # fmt: skip
    floats = {name: generator.standard_normal(shape) for name, shape in shapes.items()}
    floats |= {"ones": np.ones(CHANNELS), "zeros": np.zeros(CHANNELS), "scales": np.array([1, 1, 2, 2])}
    integers = {"channels": [1], "positions": [2, 3], "pad3": [0, 0, 1, 1, 0, 0, 1, 1],
                "pad5": [0, 0, 2, 2, 0, 0, 2, 2]}  # fmt: skip
    nodes: list[NodeProto] = [
        helper.make_node(op_type, inputs, ["y" if number == len(steps) - 1 else f"v{number}"], **attributes)
        for number, (op_type, inputs, attributes) in enumerate(steps)
    ]
    read = {name for each in nodes for name in each.input}
    weights = [
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in floats.items() if name in read
    ]
    weights += [numpy_helper.from_array(np.array(value), name) for name, value in integers.items() if name in read]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, height, width])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "operator", [image], [made], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    return Walk(model, "x", "onnxruntime", 1)


def _images(height: int, width: int) -> list[np.ndarray]:
    generator = np.random.default_rng(5)
    return [generator.standard_normal((1, CHANNELS, height, width)).astype(np.float32) for _ in range(2)]


@pytest.mark.parametrize("name", ALIKE)
def test_operators_that_treat_all_positions_alike(name: str) -> None:
    for height, width in SIZES:
        walk = _walk(ALIKE[name], height, width)
        for image in _images(height, width):
            assert list(walk.failures(image)) == []
            assert walk.num_checked > 0


@pytest.mark.parametrize("name", BY_POSITION)
def test_operators_that_do_not_are_found(name: str) -> None:
    found = []
    for height, width in SIZES:
        walk = _walk(BY_POSITION[name], height, width)
        found += [failure for image in _images(height, width) for failure in walk.failures(image)]
    assert found
