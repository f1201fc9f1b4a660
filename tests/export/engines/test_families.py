"""A network of every family and kind of block through the real compiler, in every form, in float32 and float16.

With one block in each stage: the compiler's time goes by the convolutions. Whole networks are built at night.
"""

from __future__ import annotations

from typing import Literal

import pytest

from aps_deploy.export.engines.building import build_engine
from aps_deploy.export.engines.precision_readback import check_precisions, read_precisions
from aps_deploy.export.engines.profiles import Profile
from aps_deploy.export.engines.settings import EngineSettings, check_settings
from aps_deploy.export.forms import POLYPHASE_FORMS, PolyphaseForm, inlined
from aps_deploy.export.onnx_export import finish_onnx, in_precision
from aps_deploy.models import create_model, list_models
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit
from tests.export.support import traced

# One of each family and kind of block, with the side of its images in pixels.
NETWORKS = {"resnet20_aps3": 16, "cifar_resnet50_aps3": 16, "resnet18_aps3": 64, "resnet50_aps3": 64}


def test_every_family_and_kind_of_block_is_among_them() -> None:
    def kind(name: str) -> tuple[str, bool]:
        spec = create_model(name).spec
        return spec.family, spec.bottleneck

    assert {kind(name) for name in NETWORKS} == {kind(name) for name in list_models("*_aps3")}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("form", POLYPHASE_FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_it_builds_and_every_layer_is_read_back(
    name: str, form: PolyphaseForm, precision: Literal["fp32", "fp16"], rtx: Toolkit
) -> None:
    _, graph = traced(name, NETWORKS[name], NETWORKS[name], short=True)
    model = finish_onnx(in_precision(graph, precision, None), form)
    settings = check_settings(EngineSettings("trt-rtx", (Profile((1, 2, 4)),)), rtx)
    built = build_engine(model.SerializeToString(), settings, rtx)
    assert len(built.plan) > 10_000
    read = read_precisions(inlined(model), built.kernels, built.source)
    check_precisions(read)
    assert read.precision == precision
    # In a float32 file with custom operators the blurs are inside of them, under names that no list of kernels has:
    # they are told as unread, and nothing else is.
    blurs = {layer.layer for layer in read.asked if layer.layer.startswith("aps__blurred")}
    assert set(read.unread) <= (blurs if (form, precision) == ("custom-op", "fp32") else set())
