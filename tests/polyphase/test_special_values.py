"""Ties, zeros, tiny and huge values, infinities and NaN: the rules of the definition."""

from __future__ import annotations

import math

import pytest
import torch

from aps_deploy.errors import InputError
from aps_deploy.polyphase import CRITERIA, exact_mean, polyphase_components, polyphase_select, select, take_component

ADDITIVE = ["l2", "l1", "l2_min", "l1_min"]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("selection", ["exact", "float"])
def test_ties_go_to_the_lowest_index_and_have_no_margin(criterion: str, selection: str) -> None:
    for x in (torch.zeros(2, 3, 4, 6), torch.full((2, 3, 4, 6), 0.7)):
        result = select(x, 2, criterion, selection)
        assert result.index.tolist() == [0, 0]
        assert result.margin.tolist() == [0.0, 0.0]


def test_tied_components_that_are_shifts_of_each_other_stay_equivariant() -> None:
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 0, 0] = x[0, 0, 3, 5] = 1.0  # components 0 and 3 hold one pixel each
    y, index = polyphase_select(x)
    assert int(index) == 0
    rolled, _ = polyphase_select(torch.roll(x, (1, 1), (2, 3)))
    assert any(torch.equal(torch.roll(y, (a, b), (2, 3)), rolled) for a in range(4) for b in range(4))


@pytest.mark.parametrize("scale", [1e-18, 1e-12, 1.0, 1e12, 1e18])
@pytest.mark.parametrize("criterion", ADDITIVE)
def test_scale_does_not_change_the_choice(scale: float, criterion: str) -> None:
    x = torch.randn(16, 4, 6, 6, generator=torch.Generator().manual_seed(3))
    choice = select(x, 2, criterion)
    clear = choice.margin > 1e-6
    assert bool(clear.all())
    # Squares of 1e-18 are subnormal in float32, where relative accuracy ends.
    margin = 1e-2 if scale == 1e-18 and criterion.startswith("l2") else 1e-6
    scaled = select(x * scale, 2, criterion)
    decided = choice.margin > margin
    assert torch.equal(scaled.index[decided], choice.index[decided])
    assert bool((scaled.margin >= 0).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types_are_summed_in_float32(dtype: torch.dtype) -> None:
    # 200**2 * 64 pixels overflows float16; in bfloat16 the sums would tie.
    x = torch.full((1, 4, 16, 16), 200.0)
    x[0, 0, 1, 1] = 202.0
    result = select(x.to(dtype))
    assert int(result.index) == 3
    assert float(result.margin) > 0


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("selection", ["exact", "float"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_maps_select_component_0(criterion: str, selection: str, bad: float) -> None:
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(4))
    before = select(x, 2, criterion, selection).index
    x[1, 0, 3, 3] = bad
    result = select(x, 2, criterion, selection)
    assert int(result.index[1]) == 0
    assert float(result.margin[1]) == 0
    # Other images of the batch are not touched.
    assert result.index[[0, 2]].tolist() == before[[0, 2]].tolist()


@pytest.mark.parametrize("criterion", ["l2", "l1", "linf"])
def test_minus_infinity_selects_component_0(criterion: str) -> None:
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(5))
    x[0, 0, 1, 1] = -math.inf
    assert int(select(x, 2, criterion).index) == 0


def test_energies_that_overflow_select_component_0() -> None:
    x = torch.ones(1, 1, 4, 4)
    x[0, 0, 1, 1] = 1e20  # its square is infinite in float32
    assert int(select(x).index) == 0
    assert int(select(x.double()).index) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_exact_mean_shows_non_finite_channels_and_no_others(bad: float) -> None:
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(6))
    x[0, 1, 2, 2] = bad
    mean = exact_mean(x)
    assert math.isnan(mean[0, 1])
    x[0, 1] = 0
    torch.testing.assert_close(torch.where(torch.isnan(mean), 0.0, mean), x.mean((2, 3)))


def test_exact_mean_of_zeros_tiny_and_huge_maps() -> None:
    assert exact_mean(torch.zeros(1, 2, 3, 5)).tolist() == [[0.0, 0.0]]
    for scale in (1e-25, 1e30):
        x = torch.rand(1, 2, 3, 5, generator=torch.Generator().manual_seed(7)) * scale
        torch.testing.assert_close(exact_mean(x), x.double().mean((2, 3)).float(), rtol=1e-6, atol=0)


def test_large_float64_maps_do_not_overflow() -> None:
    x = torch.ones(1, 1, 512, 512, dtype=torch.float64)
    x[0, 0, 1::2, 1::2] = 1.5
    result = select(x)
    assert int(result.index) == 3
    assert bool((result.scores > 0).all())
    assert float(exact_mean(x)) == pytest.approx(1.125, rel=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 7, 7), (1, 5, 14, 14), (3, 2, 5, 9)])
def test_exact_mean_does_not_depend_on_position(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(8))
    mean = exact_mean(x)
    for shift in [(1, 0), (2, 3), (4, 1)]:
        assert torch.equal(exact_mean(torch.roll(x, shift, (2, 3))), mean)
    torch.testing.assert_close(mean, x.mean((2, 3)))


@pytest.mark.parametrize(("height", "width", "next_size"), [(5, 4, "6x4"), (4, 7, "4x8"), (1, 1, "2x2")])
def test_odd_maps_are_refused_with_the_next_valid_size(height: int, width: int, next_size: str) -> None:
    with pytest.raises(InputError, match=f"{height}x{width}.*{next_size}"):
        polyphase_select(torch.zeros(1, 1, height, width))


def test_components_are_numbered_as_the_authors_do() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    components = polyphase_components(x)
    for k, expected in enumerate([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]):
        assert torch.equal(components[:, k], expected)
        assert torch.equal(take_component(x, torch.tensor([k])), expected)
