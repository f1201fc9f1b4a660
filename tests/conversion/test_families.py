"""Every family: weights kept, the same function on a periodic map, exported, verified, bit-identical under shifts."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import aps_deploy
from aps_deploy.conversion import ConvertedModel
from tests.conversion.proof import images_for, prove, seeded_shifts
from tests.conversion.support import FAMILIES, full_network, short_network, with_circular_borders

# What selects in each family; ConvNeXt's stem strides by 4, which is two selections.
SELECTING = {
    "resnet": ["conv1", "maxpool", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1"],
    "resnext": ["conv1", "maxpool", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"],
    "wide_resnet": ["conv1", "maxpool", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"],
    "mobilenet_v2": [
        *("features.0.0", "features.2.conv.1.0", "features.4.conv.1.0", "features.5.conv.1.0", "features.6.conv.1.0")
    ],
    "mobilenet_v3": [
        *("features.0.0", "features.1.block.0.0", "features.2.block.1.0", "features.3.block.1.0"),
        "features.5.block.1.0",
    ],
    "densenet": [
        *("features.conv0", "features.pool0", "features.transition1.pool", "features.transition2.pool"),
        "features.transition3.pool",
    ],
    "convnext": ["features.0.0", "features.2.1", "features.4.1", "features.6.1"],
    "vgg": ["features.2", "features.5", "features.8"],
}


@functools.cache
def converted(family: str) -> ConvertedModel:
    return aps_deploy.convert(short_network(family), head="gap" if family == "vgg" else None)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_strides_is_found(family: str) -> None:
    report = converted(family).report
    assert [entry.module for entry in report.sampled] == SELECTING[family]
    assert converted(family).selection_layers == [layer for entry in report.sampled for layer in entry.layers]
    for entry in report.sampled:
        in_block = entry.module.startswith("layer")
        assert entry.followers == ((entry.module[:9] + "downsample.0",) if in_block else ())
        assert str(entry.module) in str(report)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "vgg"])
def test_weights_are_kept(family: str) -> None:
    before, after = short_network(family).state_dict(), converted(family).state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        assert torch.equal(after[key], value), key


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "vgg"])
def test_component_zero_everywhere_is_the_original_on_a_periodic_map(family: str) -> None:
    """Without a blur the converted network is the original, but for which grid it samples on."""
    model = converted(family)
    images = images_for(model)
    forced = torch.zeros(len(images), len(model.selection_layers), dtype=torch.int64)
    with torch.inference_mode():
        expected = with_circular_borders(short_network(family))(images)
        logits, _ = model.forward_with_selection(images, forced)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_pytorch_keeps_every_bit_or_says_why_not(family: str) -> None:
    model = converted(family)
    images = images_for(model)
    with torch.inference_mode():
        logits = model(images)
        moved = [model(torch.roll(images, shift, (2, 3))) for shift in seeded_shifts(5, images.shape[2])]
    if family == "convnext":
        assert [entry.rsplit(": ")[1] for entry in model.report.position_dependent] == ["gelu"] * 4
        for other in moved:
            np.testing.assert_allclose(other, logits, rtol=1e-4, atol=1e-4)
    else:
        assert not model.report.position_dependent
        assert all(torch.equal(other, logits) for other in moved)


def test_the_original_does_not() -> None:
    images = images_for(converted("resnet"))
    with torch.inference_mode():
        logits = short_network("resnet")(images)
        moved = short_network("resnet")(torch.roll(images, (1, 0), (2, 3)))
    assert float((moved - logits).abs().max()) > 1e-2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("converted")


@pytest.mark.parametrize(
    # Their blocks are a ResNet's, but for widths and groups.
    "family",
    [
        pytest.param(family, marks=pytest.mark.slow if family in ("wide_resnet", "resnext") else ())
        for family in FAMILIES
    ],
)
def test_the_exported_file_keeps_every_bit(family: str, folder: Path) -> None:
    prove(converted(family), folder / f"{family}.onnx", num_shifts=20)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # minutes where the machine is idle
@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "mobilenet_v2", "mobilenet_v3_small"),
        *("mobilenet_v3_large", "densenet121", "densenet169", "convnext_tiny", "convnext_small", "vgg11", "vgg16_bn"),
    ],
)
def test_whole_networks(name: str, tmp_path: Path) -> None:
    original = full_network(name)
    head = "gap" if name.startswith("vgg") else None
    prove(aps_deploy.convert(original, head=head), tmp_path / f"{name}.onnx", num_shifts=20)
