"""Real networks through the real compiler: every architecture, and how many kernels a selection costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import onnx
import pytest

from aps_deploy.export.engines.building import BuiltEngine, build_engine
from aps_deploy.export.engines.kernels import Kernel, num_kernels
from aps_deploy.export.engines.precision_readback import check_precisions, read_precisions
from aps_deploy.export.engines.profiles import Profile
from aps_deploy.export.engines.settings import EngineSettings, check_settings
from aps_deploy.export.onnx_export import finish_onnx, in_precision, trace_onnx
from aps_deploy.models import create_model, list_models
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit
from tests.export.support import full_model, short_model, traced

pytestmark = pytest.mark.slow

# Kernels of one exact selection in TensorRT-RTX 1.7 in the `where` form: energies, their maximum, the scaled sums. The
# comparisons and the strided slices go into the kernel of the next padding.
KERNELS_OF_A_SELECTION = 3


def _build(model: onnx.ModelProto, rtx: Toolkit) -> BuiltEngine:
    settings = check_settings(EngineSettings("trt-rtx", (Profile((1, 8, 16)),)), rtx)
    return build_engine(model.SerializeToString(), settings, rtx)


@pytest.mark.parametrize("name", list_models())
def test_every_architecture_builds_in_half_precision(name: str, rtx: Toolkit) -> None:
    side = create_model(name).spec.default_image_size
    graph = trace_onnx(full_model(name), height=side, width=side, opset=20)
    model = finish_onnx(in_precision(graph, "fp16", None), "where")
    built = _build(model, rtx)
    read = read_precisions(model, built.kernels, built.source)
    check_precisions(read)
    assert read.precision == "fp16" and read.unread == ()


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_kernels_that_selections_add_to_a_blurred_network(
    precision: Literal["fp16", "fp32"], rtx: Toolkit, capsys: pytest.CaptureFixture[str]
) -> None:
    """`aps3` beside `lpf3`, both with exact pooling; the lists are printed."""
    engines = {name: _build(_short_onnx(name, precision), rtx) for name in ("resnet18_lpf3", "resnet18_aps3")}
    with capsys.disabled():
        for name, engine in engines.items():
            print(f"\n{name} {precision}: {num_kernels(engine.kernels)} kernels")
            print("\n".join(_lines(engine.kernels)))
    selections = len(short_model("resnet18_aps3").selection_layers)
    blurred, selecting = engines["resnet18_lpf3"].kernels, engines["resnet18_aps3"].kernels
    added = [kernel for kernel in selecting if _is_of_a_selection(kernel)]
    assert len(added) == KERNELS_OF_A_SELECTION * selections
    assert not any(_is_of_a_selection(kernel) for kernel in blurred)
    # What the slices save by taking over the padding outweighs the stacking of the indices.
    assert num_kernels(selecting) <= num_kernels(blurred) + len(added)


@pytest.mark.parametrize("side", [64, 224])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_one_pass_adds_a_kernel_for_each_selection_and_one_for_the_indices(
    precision: Literal["fp16", "fp32"], side: int, rtx: Toolkit, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole networks, all with exact pooling."""
    kernels = {}
    for name in ("resnet18", "resnet18_lpf3", "resnet18_aps3"):
        model, graph = traced(name, side, side)
        engine = _build(finish_onnx(in_precision(graph, precision, None), "one-pass"), rtx)
        kernels[name] = num_kernels(engine.kernels)
        with capsys.disabled():
            print(f"\n{name} {side} {precision}: {kernels[name]} kernels")
            print("\n".join(_lines(engine.kernels)))
    assert kernels["resnet18"] < kernels["resnet18_lpf3"]
    assert kernels["resnet18_aps3"] <= kernels["resnet18_lpf3"] + len(model.selection_layers) + 1


def _short_onnx(name: str, precision: Literal["fp16", "fp32"]) -> onnx.ModelProto:
    _, graph = traced(name, 64, 64, short=True)
    return finish_onnx(in_precision(graph, precision, None), "where")


def _is_of_a_selection(kernel: Kernel) -> bool:
    """Whether a kernel computes energies, their peak or their sums, and not the pooling's."""
    return any(node.startswith(("energy/", "components/")) for node in kernel.nodes) or (
        any(node.startswith("peak/") for node in kernel.nodes)
        and not any(node.startswith("magnitude/") for node in kernel.nodes)
    )


def _lines(kernels: tuple[Kernel, ...]) -> Iterator[str]:
    for kernel in kernels:
        if kernel.computes:
            yield f"  {kernel.kind:<15}{'/'.join(kernel.outputs):<20}{', '.join(kernel.nodes)[:90]}"
