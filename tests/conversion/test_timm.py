"""timm's ResNets, kind by kind: weights kept, the same function on a periodic map, bit-identical under shifts."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet

import aps_deploy
from aps_deploy.conversion import ConvertedModel
from aps_deploy.errors import ApsError, InputError
from aps_deploy.export import export_onnx
from aps_deploy.layers import APS
from aps_deploy.verification import verify
from tests.conversion.proof import images_for, prove, seeded_shifts
from tests.conversion.support import NUM_CLASSES, randomised, with_circular_borders
from tests.conversion.timm_support import KINDS, build, short_resnet, timm, whole_network

# What strides in the stem, and in the blocks with the shortcut beside it.
STEM = {
    "resnetblur": ["conv1", "maxpool.1"],
    "resnetblurd": ["conv1.0", "maxpool.1"],
    "resnetrs": ["conv1.0", "maxpool.0"],
    "dilated": ["conv1", "maxpool.1"],
}
BLOCK = {kind: "aa" for kind in ("resnetblur", "resnetblurd", "resnetaa", "dilated")}
BLOCK |= {kind: "conv2" for kind in ("resnett", "resnext", "senet", "ecaresnet", "resnetrs")}


@functools.cache
def converted(kind: str) -> ConvertedModel:
    return aps_deploy.convert(short_resnet(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_what_strides_is_found(kind: str) -> None:
    has_deep_stem = isinstance(short_resnet(kind).conv1, nn.Sequential)
    stem = STEM.get(kind, ["conv1.0" if has_deep_stem else "conv1", "maxpool"])
    stages = (2, 3) if kind == "dilated" else (2, 3, 4)
    report = converted(kind).report
    strided = [f"layer{stage}.0.{BLOCK.get(kind, 'conv1')}" for stage in stages]
    assert [entry.module for entry in report.sampled] == stem + strided
    followers = [entry.followers for entry in report.sampled]
    assert followers == [(), (), *((f"layer{stage}.0.downsample.0",) for stage in stages)]
    assert converted(kind).spec.total_stride == (16 if kind == "dilated" else 32)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_kept(kind: str) -> None:
    before, after = short_resnet(kind).state_dict(), converted(kind).state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        assert torch.equal(after[key], value), key


@pytest.mark.parametrize("kind", KINDS)
def test_component_zero_everywhere_is_the_original_on_a_periodic_map(kind: str) -> None:
    model = converted(kind)
    images = images_for(model)
    forced = torch.zeros(len(images), len(model.selection_layers), dtype=torch.int64)
    with torch.inference_mode():
        expected = with_circular_borders(short_resnet(kind))(images)
        logits, _ = model.forward_with_selection(images, forced)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_keeps_every_bit(kind: str) -> None:
    model = converted(kind)
    assert not model.report.position_dependent
    images = images_for(model)
    with torch.inference_mode():
        logits, chosen = model.forward_with_selection(images)
        for shift in seeded_shifts(3, images.shape[2]):
            moved, chosen_then = model.forward_with_selection(torch.roll(images, shift, (2, 3)))
            assert torch.equal(moved, logits)
            assert not torch.equal(chosen_then, chosen)


def test_the_same_network_of_torchvision_converts_to_the_same() -> None:
    """timm's blocks have places for what these networks do without, which must not stand between."""
    theirs = TorchvisionResNet(BasicBlock, [1, 1, 1, 1], NUM_CLASSES).eval()
    ours = build(**KINDS["resnet"], channels=(64, 128, 256, 512))
    theirs.load_state_dict(ours.state_dict())
    one, other = aps_deploy.convert(ours), aps_deploy.convert(theirs)
    images = images_for(one)
    with torch.inference_mode():
        for left, right in zip(one.forward_with_selection(images), other.forward_with_selection(images), strict=True):
            assert torch.equal(left, right)


# One of each idea; the others are slow.
FAST = ("resnetd", "resnetblur")


@pytest.mark.parametrize(
    "kind", [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_the_exported_file_keeps_every_bit(kind: str, tmp_path: Path) -> None:
    prove(converted(kind), tmp_path / f"{kind}.onnx", num_shifts=20)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "name",
    [
        *("resnet10t", "resnet18", "resnet26d", "resnet34", "resnet50", "resnet50s", "resnet101", "resnext50_32x4d"),
        *("wide_resnet50_2", "seresnet50", "seresnext26d_32x4d", "ecaresnet26t", "ecaresnet50d", "resnetblur18"),
        *("resnetblur50", "resnetaa50d", "resnetrs50"),
    ],
)
def test_whole_networks(name: str, tmp_path: Path) -> None:
    prove(aps_deploy.convert(whole_network(name)), tmp_path / f"{name}.onnx", num_shifts=20)


def test_a_blur_of_the_networks_own_is_the_samplers() -> None:
    def sizes(filter_size: int) -> dict[str, int]:
        model = aps_deploy.convert(short_resnet("resnetblur"), filter_size=filter_size)
        return {path: module.blur.filter_size for path, module in model.named_modules() if isinstance(module, APS)}

    assert sizes(1) == {
        "conv1_sampler": 1,
        "maxpool.1_sampler": 3,
        **{f"layer{stage}.0.aa_sampler": 3 for stage in (2, 3, 4)},
    }
    assert set(sizes(3).values()) == {3}
    assert set(sizes(5).values()) == {5}
    assert [entry.filter_size for entry in converted("resnetblur").report.sampled] == [1, 3, 3, 3, 3]
    assert "maxpool.1: stride 2 became maxpool.1_sampler, blurred by 3 taps" in str(converted("resnetblur").report)


def test_such_a_blur_is_part_of_the_fused_operator(tmp_path: Path) -> None:
    export_onnx(converted("resnetblur"), tmp_path / "blur.onnx", image_size=64, polyphase="custom-op")
    nodes = onnx.load(tmp_path / "blur.onnx").graph.node
    kinds = [node.op_type for node in nodes if node.domain == "aps" and "Select" in node.op_type]
    assert sorted(kinds) == ["BlurredSelect_L2"] * 4 + ["PolyphaseSelect_L2"]


@pytest.mark.slow
def test_half_precision_where_only_the_classifier_is_pooled(tmp_path: Path) -> None:
    with pytest.raises(ApsError, match="fp16 is written for networks whose pooled values only the classifier reads"):
        export_onnx(converted("ecaresnet"), tmp_path / "eca.onnx", image_size=64, precision="fp16")
    model = converted("resnetblur")
    export_onnx(model, tmp_path / "blur.onnx", image_size=64, precision="fp16")
    assert verify(tmp_path / "blur.onnx", model, images_for(model).numpy(), shifts=4, precision="fp16").passed


def test_what_is_dropped_in_training_is_dropped_still() -> None:
    network = build(**KINDS["resnet"], drop_path_rate=0.5, drop_block_rate=0.3)
    model = aps_deploy.convert(network)
    plain = build(**KINDS["resnet"])
    plain.load_state_dict(network.state_dict())
    images = images_for(model, batch=8)
    with torch.no_grad():
        # Also what stands between the convolution and its activation moves no sampler.
        assert torch.equal(model(images), aps_deploy.convert(plain)(images))
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        assert not torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        (
            "resnetaa",
            {"criterion": "l1"},
            r"maxpool averages a map without negative .*; use the criterion l2\.",
        ),
        ("resnetblur", {"criterion": "l1"}, r"maxpool\.1 gives a map without negative .* spreads .* criterion l2\."),
        ("resnet", {"criterion": "l1", "filter_size": 3}, r"conv1 gives a map .*; use the criterion l2, or no blur\."),
        ("resnet", {"criterion": "linf"}, r"maxpool takes maxima, .*, or a filter size of 2 or more\."),
    ],
)
def test_criteria_that_always_tie(kind: str, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        aps_deploy.convert(short_resnet(kind), **options)  # type: ignore[arg-type]


def test_a_batch_norm_behind_the_average_tells_them_apart() -> None:
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2, 2), nn.BatchNorm2d(8), nn.ReLU())
    pool = timm.layers.SelectAdaptivePool2d(pool_type="avg", flatten=True)
    torch.manual_seed(0)
    network = randomised(nn.Sequential(stem, pool, nn.Linear(8, 2)))
    model = aps_deploy.convert(network, criterion="l1")
    assert model.trace_selections(torch.randn(4, 3, 32, 32)).margins.amin() > 1e-6


@pytest.mark.parametrize("kind", ["resnetaa", "resnetblur"])
def test_they_tie_indeed(kind: str) -> None:
    """The margins of l1 in the stem, where l2 chose: what is refused would be chosen by rounding."""
    model = aps_deploy.convert(short_resnet(kind), selection="float")
    stem = next(path for path in model.selection_layers if path.startswith("maxpool"))
    maps: list[torch.Tensor] = []
    sampler = model.get_submodule(stem)
    assert isinstance(sampler, APS)
    sampler.register_forward_pre_hook(lambda _, arguments: maps.append(sampler.blur(arguments[0])))
    with torch.inference_mode():
        model(images_for(model))
    sums = torch.stack([maps[0][:, :, i::2, j::2].abs().double().sum((1, 2, 3)) for i in (0, 1) for j in (0, 1)])
    squares = torch.stack([maps[0][:, :, i::2, j::2].double().square().sum((1, 2, 3)) for i in (0, 1) for j in (0, 1)])
    assert float(((sums.amax(0) - sums.amin(0)) / sums.amax(0)).max()) < 1e-6
    assert float(((squares.amax(0) - squares.amin(0)) / squares.amax(0)).min()) > 1e-6


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"block_args": {"attn_layer": "cbam"}}, r"layer1\.0\.se.* cannot be converted"),
        ({"block_args": {"attn_layer": "gc"}}, r"layer1\.0\.se.* cannot be converted"),
        ({"norm_layer": "groupnorm1"}, r"bn1 \(group_norm\) cannot be converted"),
        ({"global_pool": ""}, "cannot be converted: it does not run on images"),
        ({"num_classes": 0, "global_pool": ""}, "does not return one tensor of logits"),
        ({"output_stride": 16, "avg_down": True}, r"cannot follow the forward pass of layer4\.0\.downsample\.0 "),
    ],
)
def test_what_cannot_be_converted_is_named(options: dict[str, object], sentence: str) -> None:
    with torch.device("meta"):
        network = timm.models.resnet.ResNet(
            timm.models.resnet.BasicBlock, (1, 1, 1, 1), channels=(16, 32, 64, 128), **options
        )
    with pytest.raises(InputError, match=sentence):
        aps_deploy.convert(network)


def test_networks_of_features_only() -> None:
    with torch.device("meta"):
        network = timm.create_model("resnet10t", pretrained=False, features_only=True)
    with pytest.raises(InputError, match="a classifier is needed"):
        aps_deploy.convert(network)


@pytest.mark.parametrize(
    ("filter_size", "sentence"),
    [(4, r"1 \(kernel 4, .* has no circular form"), (9, "1 blurs by 9 taps, and filters of 1 to")],
)
def test_blurs_that_cannot_be_converted(filter_size: int, sentence: str) -> None:
    blur = timm.layers.BlurPool2d(8, filt_size=filter_size, stride=2)
    pool = timm.layers.SelectAdaptivePool2d(pool_type="avg", flatten=True)
    with pytest.raises(InputError, match=sentence):
        aps_deploy.convert(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), blur, pool, nn.Linear(8, 2)))
