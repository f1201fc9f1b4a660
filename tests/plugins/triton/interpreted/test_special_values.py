from __future__ import annotations

import math

import pytest
import torch

from aps_deploy.plugins.triton import tiles
from aps_deploy.plugins.triton.kernels import scores
from aps_deploy.plugins.triton.torch_calls import choose, put, select, take
from aps_deploy.polyphase import CRITERIA
from aps_deploy.polyphase import select as definition
from aps_deploy.polyphase.exact import component_sums, quantise
from tests.plugins.triton import checks
from tests.plugins.triton.maps import made


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("filter_size", [1, 3])
def test_an_image_that_is_not_finite_keeps_component_0(criterion: str, bad: float, filter_size: int) -> None:
    case = made((3, 2, 4, 6), criterion=criterion, filter_size=filter_size, seed=4)
    before = choose(case.x, 2, criterion, case.filters)
    case.x[1, 1, 3, 5] = bad
    assert choose(case.x, 2, criterion, case.filters).tolist() == [int(before[0]), 0, int(before[2])]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -2.0])
def test_equal_components_keep_the_lowest(criterion: str, stride: int, value: float) -> None:
    x = torch.full((1, 3, 12, 12), value)
    assert choose(x, stride, criterion).tolist() == [0]
    # Components 0 and 1 lose, all others are equal.
    x[:, :, ::stride, ::stride] = x[:, :, 1::stride, ::stride] = value + (2.0 if criterion.endswith("_min") else -0.5)
    if criterion == "max" or value == 1.5:
        assert choose(x, stride, criterion).tolist() == [2]


def test_a_zero_of_either_sign_is_one_maximum() -> None:
    x = torch.zeros(1, 1, 4, 4)
    x[:, :, ::2, ::2] = -0.0
    assert choose(x, 2, "max").tolist() == [0]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e-3, 1e15])
def test_small_and_large_maps(criterion: str, scale: float) -> None:
    x = made((2, 3, 8, 8), seed=5).x * scale
    expected = definition(x, 2, criterion)  # type: ignore[arg-type]
    assert (choose(x, 2, criterion) == expected.index)[expected.margin > 1e-6].all()


def test_negative_maps_are_ranked_by_max() -> None:
    x = -made((4, 3, 8, 8), seed=6).x.abs() - 1
    assert torch.equal(choose(x, 2, "max"), definition(x, 2, "max").index)


def test_squares_that_overflow_keep_component_0() -> None:
    x = torch.ones(1, 1, 4, 4)
    x[0, 0, 1, 1] = 1e20
    assert choose(x, 2, "l2").tolist() == [0]
    assert choose(x, 2, "l1").tolist() == [3]


def test_whole_numbers_are_those_of_the_definition() -> None:
    # Of one channel the energies are the definition's bit by bit, and so must be what is made of them.
    case = made((3, 1, 26, 34), seed=7)
    assert torch.equal(checks.total_scores(case), definition(case.x, 2, "l2").scores)


@pytest.mark.parametrize("filter_size", [1, 3])
def test_an_index_of_no_component_gives_nan_and_puts_nothing(filter_size: int) -> None:
    case = made((3, 2, 4, 4), filter_size=filter_size)
    index = torch.tensor([4, -1, 3])
    taken = take(case.x, index, 2, case.filters)
    assert taken.isnan().flatten(1).all(1).tolist() == [True, True, False]
    gradient = put(torch.ones(3, 2, 2, 2), index, 2, 4, 4, case.filters)
    assert (gradient == 0).flatten(1).all(1).tolist() == [True, True, False]


def test_no_images() -> None:
    x = torch.empty(0, 3, 4, 4)
    index = choose(x, 2, "l2")
    assert index.shape == (0,) and index.dtype == torch.int64
    assert take(x, index, 2).shape == (0, 3, 2, 2)
    assert put(torch.empty(0, 3, 2, 2), index, 2, 4, 4).shape == (0, 3, 4, 4)
    assert select(x, 2, "l2")[0].shape == (0, 3, 2, 2)


def test_a_map_in_no_order_at_all() -> None:
    x = made((2, 6, 8, 8), seed=8).x.permute(0, 1, 3, 2)[:, ::2]
    index = choose(x, 2, "l2")
    assert torch.equal(index, choose(x.contiguous(), 2, "l2"))
    assert torch.equal(take(x, index, 2), take(x.contiguous(), index, 2))


@pytest.mark.parametrize("parts", [1, 4, 16])
def test_parts_of_a_score_add_up(parts: int) -> None:
    # More maxima than one load takes, several rounds of positions in one part, and parts without any position.
    energies = torch.rand(2, 66, 60, generator=torch.Generator().manual_seed(9))
    maxima = energies.reshape(2, -1, 2).amax(2)
    constants = tiles.score_constants(2)
    assert maxima.shape[1] > constants["BLOCK_MAXIMA"] and constants["BLOCK_POSITIONS"] < 33 * 30
    partial = torch.empty(2, parts, 4, dtype=torch.int64)
    scores.score[(parts, 2)](energies, maxima, 66, 60, partial, NORM="l2", STRIDE=2, ENERGY_PIXELS=2, **constants)
    expected = component_sums(quantise(energies, maxima.amax(1)[:, None, None], 30), 2)
    assert torch.equal(partial.sum(1), expected)


def test_several_parts_of_a_whole_selection() -> None:
    case = made((1, 33, 66, 68), seed=9)
    assert tiles.num_parts(66, 68, 2) == 4
    checks.check_choice(case)
    checks.check_shift(case, 7, 67)
