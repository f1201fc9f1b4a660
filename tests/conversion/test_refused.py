"""What cannot be converted is named in one sentence, and the caller's network is left as it was."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn

import aps_deploy
from aps_deploy.errors import InputError
from tests.conversion.support import short_network


class _Small(nn.Module):
    """Two convolutions, a step of the subclass, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 4)

    def between(self, x: Tensor, images: Tensor) -> Tensor:
        return self.second(x)

    def forward(self, images: Tensor) -> Tensor:
        x = self.between(torch.relu(self.first(images)), images)
        return self.fc(self.pool(x).flatten(1))


class _DependsOnData(_Small):
    def between(self, x: Tensor, images: Tensor) -> Tensor:
        return self.second(x) if x.sum() > 0 else x


class _KnowsPlaces(_Small):
    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.zeros(1, 8, 128, 128))

    def between(self, x: Tensor, images: Tensor) -> Tensor:
        return x + self.places


class _JoinsGrids(_Small):
    def between(self, x: Tensor, images: Tensor) -> Tensor:
        return x + nn.functional.interpolate(self.second(x), scale_factor=2.0)


class _WeighsRows(_Small):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, stride=2, padding=1)
        self.fc = nn.Linear(64, 4)

    def between(self, x: Tensor, images: Tensor) -> Tensor:
        return x * torch.mean(x, (2, 3)).flatten()[:128]


class _Crops(_Small):
    def between(self, x: Tensor, images: Tensor) -> Tensor:
        return x[:, :, 1:, 1:]


class _Normalises(_Small):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.GroupNorm(2, 8)  # type: ignore[assignment]


class _StridesByThree(_Small):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(8, 8, 3, stride=3)


class _ReturnsMap(_Small):
    def forward(self, images: Tensor) -> Tensor:
        return self.first(images)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (_DependsOnData, "_DependsOnData cannot be converted: torch.fx cannot follow"),
        (_KnowsPlaces, r"\(add\) joins a map with a value of shape \(1, 8, 128, 128\), which differs by position"),
        (_JoinsGrids, r"\(interpolate\) cannot be converted"),
        (_WeighsRows, r"\(mul\) joins a map with a value of shape \(128,\), which differs by position"),
        (_Crops, r"\(getitem\) cannot be converted: what this operation does with the positions"),
        (_Normalises, "second cannot be converted: what this GroupNorm does"),
        (_StridesByThree, "second has stride 3x3, and only strides of 1, 2, 4, 8"),
        (_ReturnsMap, "a classifier is needed"),
    ],
)
def test_the_module_is_named(network: type[nn.Module], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        aps_deploy.convert(network())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("squeezenet1_1", "features.0 .* has no circular form"),
        ("shufflenet_v2_x0_5", r"stage2.0 \(view\) cannot be converted"),
        ("swin_t", "shifted_window_attention"),
        ("vit_b_32", "VisionTransformer cannot be converted: it does not run on images of 256x256"),
        ("alexnet", "features.0 .*kernel 11, stride 4"),
    ],
)
def test_other_networks_of_torchvision(name: str, sentence: str) -> None:
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
    with pytest.raises(InputError, match=sentence):
        aps_deploy.convert(network)


def test_vgg_needs_another_head() -> None:
    with pytest.raises(InputError, match=r"avgpool flattens its last map.*head='gap' replaces it"):
        aps_deploy.convert(short_network("vgg"))
    with pytest.raises(InputError, match="this one pools it already; leave head out"):
        aps_deploy.convert(short_network("resnet"), head="gap")


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="filter size 8 is not available"):
        aps_deploy.convert(_Small(), filter_size=8)
    with pytest.raises(InputError, match="unknown head 'pool'"):
        aps_deploy.convert(_Small(), head="pool")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown selection criterion"):
        aps_deploy.convert(_Small(), criterion="l3")
    with pytest.raises(InputError, match="is a network of this project already"):
        aps_deploy.convert(aps_deploy.create_model("resnet20_aps1"))


def test_criteria_that_always_tie() -> None:
    with pytest.raises(InputError, match=r"maxpool takes maxima, .* criterion linf ties .* a filter size of 2"):
        aps_deploy.convert(short_network("resnet"), criterion="linf")
    with pytest.raises(InputError, match=r"conv1 gives a map without negative values, .* l1 ties .* no blur"):
        aps_deploy.convert(short_network("resnet"), criterion="l1", filter_size=3)
    # LayerNorm leaves negative values, and the blur does not make their norms alike.
    converted = aps_deploy.convert(short_network("convnext"), criterion="l1", filter_size=3).eval()
    with torch.inference_mode():
        assert converted.trace_selections(torch.randn(4, 3, 128, 128)).margins.amax(dim=0).min() > 1e-6


def test_the_original_is_left_alone() -> None:
    network = _Small().train()
    network.first.eval()
    before = copy.deepcopy(network)
    converted = aps_deploy.convert(network)
    assert str(network) == str(before)
    assert network.training and not network.first.training
    assert converted.training and not converted.first.training
    with torch.no_grad():
        converted.fc.weight.zero_()
    assert torch.equal(network.fc.weight, before.fc.weight)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(network(images), before(images))
