"""The list of kernels, read from both of its sources."""

from __future__ import annotations

import json

from aps_deploy.export.engines.building import BuiltEngine, build_engine
from aps_deploy.export.engines.kernels import Kernel, kernels_from_inspector, kernels_from_log, num_kernels
from aps_deploy.export.engines.settings import EngineSettings, check_settings
from aps_deploy.runtimes.tensorrt.log import ToolkitLog
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit
from tests.export.engines.toys import toy

# As TensorRT-RTX 1.7 writes it, shortened.
LISTING = "\n".join(
    [
        "Layers:",
        "Name: __mye1_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , "
        "StreamId: 0, Metadata: ",
        "Name: first/Conv_myl0_2, LayerType: correlation, Inputs: [ { Name: a, b, Dimensions: [-1,3,8,8], "
        "Datatype: Half, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: [8], "
        "Datatype: Half, Format: x }, { Name: s, Datatype: Float, Format: x }], Outputs: [ { Name: r, "
        "Datatype: Half, Format: x }], TacticName: t, StreamId: 0, Metadata: "
        "[ONNX Layer: first/Conv]\x1f[ONNX Layer: first/Pad]\x1e[ONNX Layer: first/Relu]",
        "Name: sums, LayerType: kgen, Inputs: [ { Name: r, Datatype: BFloat16, Format: x }], Constants: [], "
        "Outputs: [ { Name: o, Datatype: Int64, Format: x }, { Name: p, Datatype: Bool, Format: x }], "
        "TacticName: t, StreamId: 1, EventId: 2, Metadata: "
        "[ONNX Layer: node_of_aps__energy | pool/PolyphaseSelect_L2 (PolyphaseSelect_L2)]",
        "Name: wait_1, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, "
        "EventId: 5, Metadata: ",
        "",
        "I/O Tensors:",
        " Name: images, IOMode: Input, DataType: Float, Dimensions: [-1,3,32,32]",
    ]
)
CONVOLUTION = Kernel(
    "first/Conv_myl0_2",
    "correlation",
    ("fp16",),
    ("fp16", "fp32"),
    ("fp16",),
    ("first/Conv", "first/Pad", "first/Relu"),
)
SUMS = Kernel("sums", "kgen", ("bf16",), (), ("int64", "bool"), ("node_of_aps__energy",))


def test_the_builders_listing_is_read() -> None:
    log = ToolkitLog([("VERBOSE", "before"), ("VERBOSE", LISTING), ("INFO", "after")])
    kernels = kernels_from_log(log)
    assert [kernel.kind for kernel in kernels] == ["shape_call", "correlation", "kgen", "wait"]
    assert kernels[1:3] == (CONVOLUTION, SUMS)
    assert num_kernels(kernels) == 2
    assert kernels_from_log(ToolkitLog([("VERBOSE", "nothing of the kind")])) == ()


def test_the_inspectors_json_is_read_in_its_old_and_new_spelling() -> None:
    for key, half in (("Datatype", "Half"), ("Format/Datatype", "Row major linear FP16 format")):
        layer = {
            "Name": "first/Conv_myl0_2",
            "LayerType": "correlation",
            "Inputs": [{"Name": "a", key: half}],
            "Constants": [{"Name": "w", key: half}, {"Name": "s", key: "Float"}],
            "Outputs": [{"Name": "r", key: half}],
            "Metadata": "[ONNX Layer: first/Conv][ONNX Layer: first/Pad][ONNX Layer: first/Relu]",
        }
        assert kernels_from_inspector(json.dumps({"Layers": [layer]})) == (CONVOLUTION,)
    assert kernels_from_inspector(json.dumps({"Layers": ["names", "only"]})) == ()
    assert kernels_from_inspector("no JSON") == ()


def test_the_real_builder_lists_every_part_of_the_network(half_engine: BuiltEngine) -> None:
    named = {node for kernel in half_engine.kernels for node in kernel.nodes}
    assert {"first/Conv", "second/Conv", "fc/Gemm", "energy/ReduceSumSquare", "polyphase_scores/Gather"} <= {
        node.removeprefix("pool/") for node in named
    }
    assert all(kernel.name and kernel.kind for kernel in half_engine.kernels)
    types = {kind for kernel in half_engine.kernels for kind in kernel.inputs + kernel.outputs}
    assert {"fp16", "fp32", "int64", "bool"} <= types <= {"fp16", "fp32", "int64", "int32", "bool"}


def test_energies_are_float32_and_sums_are_integers_in_a_half_precision_engine(half_engine: BuiltEngine) -> None:
    makers = {node: kernel for kernel in half_engine.kernels for node in kernel.nodes}
    energy = makers["energy/ReduceSumSquare"]
    assert "fp32" in energy.outputs and "fp16" not in energy.outputs
    assert makers["better_1/Greater"].inputs == ("int64",)


def test_one_pass_sums_in_one_kernel(half_engine: BuiltEngine, rtx: Toolkit) -> None:
    settings = check_settings(EngineSettings("trt-rtx"), rtx)
    engine = build_engine(toy("fp16", "one-pass").SerializeToString(), settings, rtx)
    makers = {node.partition("/")[0]: kernel for kernel in engine.kernels for node in kernel.nodes}
    sums = makers["wide_digits"]
    assert sums is makers["terms"] and "digit_sums/ReduceSum" in sums.nodes
    assert sums.inputs == ("fp16",) and sums.outputs == ("int64",)
    # The other body reduces three times.
    assert num_kernels(engine.kernels) <= num_kernels(half_engine.kernels) - 2
