"""Shared by the export tests: one-operator models, the two runtimes, and maps whose answer is known."""

from __future__ import annotations

import functools
from typing import Any, Literal

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from aps_deploy.export import bodies
from aps_deploy.export.limbs import num_limbs
from aps_deploy.export.onnx_export import finish_onnx, trace_onnx
from aps_deploy.export.op_names import Choice, exact_mean_op, select_op
from aps_deploy.models import ModelSpec, ResNet, create_model
from aps_deploy.models.resnet import ModelOptions

Runtime = Literal["onnxruntime", "reference"]
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "reference")
OPSET = 20


def select_model(
    choice: Choice,
    *,
    form: bodies.BodyForm = "where",
    dtype: int = TensorProto.FLOAT,
    opset: int = OPSET,
    groups: int = 1,
) -> onnx.ModelProto:
    """X -> (Y, I) as one custom node with its body."""
    attributes: dict[str, Any] = {"plugin_namespace": "aps", "plugin_version": "1", "stride": choice.stride}
    index_type = TensorProto.INT64 if choice.limb_bits is None else TensorProto.INT32
    node = helper.make_node(select_op(choice), ["X"], ["Y", "I"], domain="aps", **attributes)
    graph = helper.make_graph(
        [node],
        "select",
        [helper.make_tensor_value_info("X", dtype, ["N", "C", "H", "W"])],
        [
            helper.make_tensor_value_info("Y", dtype, ["N", "C", "h", "w"]),
            helper.make_tensor_value_info("I", index_type, ["N"]),
        ],
    )
    return _model(graph, bodies.select_function(choice, form=form, opset=opset, groups=groups))


def with_scores(model: onnx.ModelProto, choice: Choice) -> onnx.ModelProto:
    """The same with the (N, s*s) scores as a third output, found by the name the exporter relies on."""
    inlined = onnx.inliner.inline_local_functions(model)
    whole = TensorProto.INT64 if choice.limb_bits is None else TensorProto.INT32
    number = 1 if choice.limb_bits is None or not choice.has_sums else num_limbs(choice.limb_bits)
    kind = whole if choice.has_sums else TensorProto.FLOAT
    name = f"aps__{bodies.SCORES}__1"
    inlined.graph.output.append(helper.make_tensor_value_info(name, kind, ["N", number * choice.stride**2]))
    return inlined


def mean_model(height: int, width: int, *, narrow: bool = False, opset: int = OPSET) -> onnx.ModelProto:
    node = helper.make_node(exact_mean_op((height, width), narrow=narrow), ["X"], ["Y"], domain="aps")
    graph = helper.make_graph(
        [node],
        "mean",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", "C", height, width])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["N", "C"])],
    )
    return _model(graph, bodies.exact_mean_function((height, width), opset=opset, narrow=narrow))


def _model(graph: onnx.GraphProto, function: onnx.FunctionProto) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", function.opset_import[0].version), helper.make_opsetid("aps", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def ort_session(model: onnx.ModelProto, *, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    content = model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, images: np.ndarray, runtime: Runtime = "onnxruntime") -> list[np.ndarray]:
    """All outputs of ``model`` for its one input."""
    feed = {model.graph.input[0].name: images}
    with np.errstate(all="ignore"):  # the reference evaluator warns where infinities are meant
        return list(
            ReferenceEvaluator(model).run(None, feed) if runtime == "reference" else ort_session(model).run(None, feed)
        )


def known_maps(stride: int, channels: int = 5) -> dict[str, np.ndarray]:
    """Rectangular maps (C, 4s, 3s) of small integers, so that every way of adding energies gives the same float32."""
    rng = np.random.default_rng(stride)
    shape = (channels, 4 * stride, 3 * stride)
    small = rng.integers(-8, 9, shape).astype(np.float32)
    one_component = np.zeros(shape, np.float32)
    one_component[:, stride - 1 :: stride, 1::stride] = rng.integers(1, 9, (channels, 4, 3))
    tied = np.zeros(shape, np.float32)
    tied[:, 1::stride, 0::stride] = tied[:, 0::stride, 1::stride] = 3.0  # components 1 and s: the lower must win
    maps = {
        "small": small,
        "negative": -np.abs(small),
        "one_component": one_component,
        "tied": tied,
        "zero": np.zeros(shape, np.float32),
        "constant": np.full(shape, -2.0, np.float32),
        "huge": small * np.float32(2.0**50),
        "tiny": small * np.float32(2.0**-40),
        "below_the_floor": small * np.float32(2.0**-62),
        "overflowing": small * np.float32(2.0**100),
    }
    for name, value in (("nan", np.nan), ("inf", np.inf), ("minus_inf", -np.inf)):
        maps[name] = small.copy()
        maps[name][channels // 2, stride, 1] = value
    return maps


class _ShortSpec(ModelSpec):
    """An architecture with one block in each stage, for tests that only need a whole network."""

    @property
    def stages(self) -> tuple[int, ...]:
        return (1,) * len(super().stages)


def short_model(name: str, **options: Any) -> ResNet:
    spec = create_model(name).spec
    torch.manual_seed(0)
    model = ResNet(_ShortSpec(**vars(spec)), ModelOptions(num_classes=4, **options))
    return randomised(model)


def full_model(name: str, **options: Any) -> ResNet:
    torch.manual_seed(0)
    return randomised(create_model(name, **options))


def randomised(model: ResNet) -> ResNet:
    """Give batch norms the statistics of a few images and weights of their own, as training would.

    Folding them is then put to the test, and activations keep their scale through the network.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain average
            torch.nn.init.uniform_(module.weight, 0.2, 0.7)
            torch.nn.init.normal_(module.bias, std=0.1)
    side = 2 * model.spec.min_size
    with torch.no_grad():
        model.train()(torch.randn(16, 3, side, side))
    return model.eval()


def trace_model(name: str, height: int, width: int, *, short: bool = False) -> tuple[ResNet, onnx.ModelProto]:
    """A network and its graph before the form is chosen: tracing is what takes the time."""
    model = short_model(name) if short else full_model(name)
    return model, trace_onnx(model, height=height, width=width, opset=OPSET)


traced = functools.cache(trace_model)


@functools.cache
def exported(name: str, size: int, form: Any, *, short: bool = False) -> tuple[ResNet, onnx.ModelProto]:
    model, graph = traced(name, size, size, short=short)
    return model, finish_onnx(graph, form)
