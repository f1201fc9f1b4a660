"""Names, sizes and options of the registered architectures."""

from __future__ import annotations

import pytest
import torch

from aps_deploy.errors import InputError
from aps_deploy.models import create_model, list_models, resolve_arch, spec, summarise


def test_every_architecture_of_the_authors_is_there() -> None:
    names = set(list_models())
    assert len(names) == 150
    for base in ("resnet20", "resnet56", "cifar_resnet18", "cifar_resnet34", "cifar_resnet50"):
        assert {base, f"{base}_lpf1", f"{base}_lpf7", f"{base}_aps1", f"{base}_aps7"} <= names
    for depth in (18, 34, 50, 101, 152):
        assert {f"resnet{depth}", f"resnet{depth}_lpf5", f"resnet{depth}_aps3"} <= names
    assert list_models("resnet18*")[:2] == ["resnet18", "resnet18_aps1"]
    assert list_models("nothing*") == []


@pytest.mark.parametrize(
    ("name", "parameters"),
    # Counts of the authors' networks, and of torchvision's.
    [
        ("resnet20_aps3", 272_474),
        ("resnet56", 855_770),
        ("cifar_resnet18_lpf2", 11_173_962),
        ("cifar_resnet50_aps1", 23_520_842),
        ("resnet18_aps3", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50_aps3", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152_lpf4", 60_192_808),
    ],
)
def test_parameter_counts(name: str, parameters: int) -> None:
    assert summarise(name).num_parameters == parameters


@pytest.mark.parametrize(
    ("name", "divisor", "smallest"),
    [
        ("resnet20_aps3", 4, 4),
        ("resnet20_aps7", 4, 8),
        ("cifar_resnet18_aps1", 8, 8),
        ("resnet18_aps3", 32, 32),
        ("resnet18", 1, 32),
    ],
)
def test_sizes(name: str, divisor: int, smallest: int) -> None:
    found = spec(name)
    assert (found.size_divisor, found.min_size) == (divisor, smallest)
    model = create_model(name, num_classes=2).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, smallest, smallest + divisor)).shape == (1, 2)
    found.check_size(smallest, smallest)
    with pytest.raises(InputError, match=f"next valid size is {smallest}x{smallest}"):
        found.check_size(smallest - 1, smallest)


def test_every_smallest_size_works() -> None:
    for name in list_models("resnet20_*") + list_models("cifar_resnet18_*"):
        model = create_model(name).eval()
        with torch.inference_mode():
            assert model(torch.zeros(1, 3, *[spec(name).min_size] * 2)).shape == (1, 10)


@pytest.mark.parametrize("filter_size", range(1, 8))
@pytest.mark.parametrize("base", ["resnet20_aps", "resnet18_lpf", "resnet18_aps"])
def test_smallest_sizes_with_zero_padding(base: str, filter_size: int) -> None:
    model = create_model(f"{base}{filter_size}", num_classes=2, padding="zeros").eval()
    assert model.min_size == model.spec.total_stride * (2 if filter_size > 3 else 1)
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, model.min_size, model.min_size)).shape == (1, 2)
        if model.min_size > model.spec.total_stride:
            with pytest.raises(InputError, match="needs a larger map"):
                model(torch.zeros(1, 3, model.spec.total_stride, model.spec.total_stride))


@pytest.mark.parametrize(
    ("arch", "filter_size", "recipe", "name"),
    [
        ("resnet18_aps", 3, "cifar10", "cifar_resnet18_aps3"),
        ("resnet18_aps", 3, "imagenet", "resnet18_aps3"),
        ("resnet18_aps", None, "fast", "cifar_resnet18_aps1"),
        ("resnet20_lpf", 5, "cifar10", "resnet20_lpf5"),
        ("resnet18", None, "cifar10", "cifar_resnet18"),
        ("resnet18", None, None, "resnet18"),
        ("resnet18_aps3", 3, None, "resnet18_aps3"),
        ("cifar_resnet50_lpf2", None, "cifar10", "cifar_resnet50_lpf2"),
        ("resnet101_aps3", None, "cifar10", "resnet101_aps3"),
    ],
)
def test_the_authors_way_of_naming(arch: str, filter_size: int | None, recipe: str | None, name: str) -> None:
    assert resolve_arch(arch, filter_size=filter_size, recipe=recipe) == name


@pytest.mark.parametrize(
    ("arch", "filter_size", "message"),
    [
        ("resnet19_aps", 3, "did you mean resnet1"),
        ("resnet18_aps2", 3, "names filter size 2, but filter size 3"),
        ("resnet20", 3, "resnet20_lpf3 or resnet20_aps3"),
        ("resnet18_aps", 9, "the filter size is 9; accepted are 1 to 7"),
        ("resnet18_aps", 0, "the filter size is 0; accepted are 1 to 7"),
        ("resnet18_aps9", None, "unknown architecture 'resnet18_aps9'"),
        ("vgg", None, "aps-deploy models"),
    ],
)
def test_wrong_names(arch: str, filter_size: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_arch(arch, filter_size=filter_size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet20_aps3", "criterion": "l3"}, "l2, l1, linf"),
        ({"name": "resnet20_aps3", "selection": "exakt"}, "exact, float"),
        ({"name": "resnet20_aps3", "padding": "reflect"}, "choose one of circular, zeros"),
        ({"name": "resnet20_aps3", "pool_only": True}, "ImageNet networks with LPF or APS"),
        ({"name": "resnet18", "pool_only": True}, "not to resnet18"),
        ({"name": "resnet20", "num_classes": 0}, "at least one class"),
        ({"name": "resnet20_asp3"}, "did you mean resnet20_aps3"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model(**options)  # type: ignore[arg-type]


def test_arguments_rebuild_the_network() -> None:
    model = create_model(
        "resnet18_aps3", num_classes=7, criterion="l_infty", selection="float", pool_only=True, padding="zeros"
    )
    again = create_model(**model.arguments)
    assert again.arguments == model.arguments
    assert model.options.criterion == "linf"
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
