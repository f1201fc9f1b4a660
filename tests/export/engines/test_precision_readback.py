"""What the kernels say a layer computes in, and what happens where that is not what the file asks for."""

from __future__ import annotations

import onnx
import pytest

from aps_deploy.errors import ApsError
from aps_deploy.export.engines.building import BuiltEngine, build_engine
from aps_deploy.export.engines.kernels import Kernel
from aps_deploy.export.engines.precision_readback import check_precisions, read_precisions
from aps_deploy.export.engines.settings import EngineSettings, check_settings
from aps_deploy.export.forms import apply_form
from aps_deploy.export.precisions import in_half_precision
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit
from aps_deploy.verification.layer_precision import layer_precisions
from tests.export.engines.toys import toy, traced_toy


def _kernel(node: str, kind: str, inputs: str, constants: str = "") -> Kernel:
    return Kernel(f"{node}_{kind}", kind, tuple(inputs.split()), tuple(constants.split()), ("fp32",), (node,))


FIRST = _kernel("first/Conv", "correlation", "fp16", "fp16 fp32")
SECOND = _kernel("second/Conv", "correlation", "fp16", "fp16")
CLASSIFIER = _kernel("fc/Gemm", "runtime_fusion", "fp32", "fp32 fp32")
# What converts the image for the first layer, and names it too.
AROUND = _kernel("first/Conv", "kgen", "fp32")


def test_a_real_engine_computes_as_its_file_asks(half_engine: BuiltEngine) -> None:
    read = read_precisions(toy("fp16"), half_engine.kernels, half_engine.source)
    check_precisions(read)
    assert read.precision == "fp16"
    assert [layer.precision for layer in read.layers] == ["fp16", "fp16", "fp32"]
    assert read.unread == () and read.warnings() == ()
    assert read.to_dict() == {
        "precision": "fp16",
        "layers": {"fp16": 2, "fp32": 1},
        "by_layer": {"first/Conv": "fp16", "second/Conv": "fp16", "fc/Gemm": "fp32"},
        "classifier": "fc/Gemm",
        "unread_layers": [],
        "read_from": half_engine.source,
    }


def test_a_real_engine_of_another_precision_is_found_out(half_engine: BuiltEngine) -> None:
    with pytest.raises(
        ApsError, match=r"first/Conv was asked for in fp32 and computes in fp16 \(.*kernel of fp16/fp16\)"
    ):
        check_precisions(read_precisions(toy("fp32"), half_engine.kernels, half_engine.source))


def test_kernels_around_a_product_are_not_asked() -> None:
    read = read_precisions(toy("fp16"), [AROUND, FIRST, SECOND, CLASSIFIER], "test")
    assert [layer.precision for layer in read.layers] == ["fp16", "fp16", "fp32"]


@pytest.mark.parametrize(
    ("kernels", "found"),
    [
        ([_kernel("first/Conv", "correlation", "fp16", "fp32")], "mixed"),  # operands of two types
        ([FIRST, _kernel("first/Conv", "correlation", "fp32", "fp32")], "mixed"),  # two profiles, two answers
        ([_kernel("first/Conv", "kgen", "fp32", "fp16")], "fp32"),  # a product the compiler writes itself
        ([_kernel("first/Conv", "correlation", "int8", "int8")], "int8"),
        ([_kernel("first/Conv", "CaskConvolution", "fp16")], "fp16"),  # no constants listed
    ],
)
def test_precision_of_a_layer(kernels: list[Kernel], found: str) -> None:
    layer = read_precisions(toy("fp16"), [*kernels, SECOND, CLASSIFIER], "test").layers[0]
    assert layer.precision == found


def test_a_classifier_in_half_precision_is_not_what_was_asked() -> None:
    half = _kernel("fc/Gemm", "runtime_fusion", "fp16", "fp16")
    with pytest.raises(ApsError, match="fc/Gemm was asked for in fp32 and computes in fp16"):
        check_precisions(read_precisions(toy("fp16"), [FIRST, SECOND, half], "test"))


def test_what_cannot_be_read_is_said_and_not_guessed() -> None:
    read = read_precisions(toy("fp16"), [FIRST, CLASSIFIER, _kernel("other", "kgen", "fp16")], "test")
    check_precisions(read)
    assert read.unread == ("second/Conv",)
    assert read.to_dict()["layers"] == {"fp16": 1, "fp32": 1, "unread": 1}
    (warning,) = read.warnings()
    assert warning.startswith(
        "the precision of 1 of 3 layers could not be read back from the engine (test): second/Conv"
    )
    assert read_precisions(toy("fp16"), [], "test").precision == "unread"


def _nameless(kind: str, precision: str) -> Kernel:
    return Kernel("__myl_FcAdd", kind, (precision,), (precision, precision), (precision,), ())


@pytest.mark.parametrize(
    ("nameless", "found"),
    [
        ([_nameless("runtime_fusion", "fp16")], "fp16"),
        ([_nameless("runtime_fusion", "fp32"), _nameless("runtime_fusion", "fp32")], "fp32"),
        ([_nameless("runtime_fusion", "fp16"), _nameless("runtime_fusion", "fp32")], "unread"),  # which of them is it?
        ([_nameless("kgen", "fp16")], "unread"),  # its constants may be anything
    ],
)
def test_a_layer_that_nothing_names_is_computed_by_a_kernel_that_names_nothing(
    nameless: list[Kernel], found: str
) -> None:
    layer = read_precisions(toy("fp16"), [FIRST, *nameless, CLASSIFIER], "test").layers[1]
    assert layer.precision == found


def test_a_kept_layer_that_the_compiler_narrows_is_found_out(rtx: Toolkit) -> None:
    """TensorRT-RTX folds the casts around it into its convolution, though the network is strongly typed."""
    model = apply_form(in_half_precision(traced_toy(), "fp16", kept=["second/Conv"]), "where")
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert [layer.precision for layer in layer_precisions(model)] == ["fp16", "fp32", "fp32"]
    built = build_engine(model.SerializeToString(), check_settings(EngineSettings("trt-rtx"), rtx), rtx)
    with pytest.raises(ApsError, match="second/Conv was asked for in fp32 and computes in fp16"):
        check_precisions(read_precisions(model, built.kernels, built.source))
