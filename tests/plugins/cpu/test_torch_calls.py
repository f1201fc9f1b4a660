from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aps_deploy.errors import ApsError
from aps_deploy.plugins.cpu.library import CRITERIA
from aps_deploy.plugins.cpu.torch_calls import choose, put, take
from aps_deploy.polyphase import select, take_component
from tests.plugins.cpu.maps import blurred, cases

criteria = st.sampled_from(CRITERIA)


@settings(deadline=None, max_examples=60)
@given(cases(), criteria)
def test_chooses_what_the_definition_chooses(case: tuple[Tensor, Tensor, int], criterion: str) -> None:
    x, filters, stride = case
    expected = select(blurred(x, filters), stride, criterion)  # type: ignore[arg-type]
    index = choose(x, filters, stride, criterion)
    # Sums of float32 in another order: only images whose best two components nearly tie may differ.
    assert (index == expected.index)[expected.margin > 1e-6].all()


@settings(deadline=None, max_examples=60)
@given(cases(), st.integers(0, 63))
def test_takes_what_the_definition_takes(case: tuple[Tensor, Tensor, int], number: int) -> None:
    x, filters, stride = case
    index = (torch.arange(len(x)) * 7 + number) % stride**2
    taken = take(x, filters, index, stride)
    expected = take_component(blurred(x, filters), index, stride)
    if filters.shape[-1] == 1:
        assert torch.equal(taken, expected)
    # At most 49 products of numbers of order one, each rounded to 2**-24.
    torch.testing.assert_close(taken, expected, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=80)
@given(cases(), st.integers(0, 63))
def test_puts_back_the_gradient_of_the_definition(case: tuple[Tensor, Tensor, int], number: int) -> None:
    x, filters, stride = case
    index = (torch.arange(len(x)) * 7 + number) % stride**2
    given = x.double().requires_grad_()
    taken = take_component(blurred(given, filters.double()), index, stride)
    grad = torch.randn(taken.shape, generator=torch.Generator().manual_seed(number))
    taken.backward(grad.double())
    found = put(grad, filters, index, stride, *x.shape[2:])
    assert given.grad is not None
    # At most 16 products of numbers of order one.
    torch.testing.assert_close(found.double(), given.grad, atol=1e-5, rtol=1e-5)
    if filters.shape[-1] == 1:
        assert torch.equal(take_component(found, index, stride), grad)


@settings(deadline=None, max_examples=40)
@given(cases(), st.integers(0, 63), st.integers(0, 40), st.integers(0, 40))
def test_a_shift_moves_what_is_put_back_and_changes_no_bit(
    case: tuple[Tensor, Tensor, int], number: int, down: int, right: int
) -> None:
    x, filters, stride = case
    index = (torch.arange(len(x)) * 7 + number) % stride**2
    dy, dx = index % stride + down, index // stride + right
    grad = take(x, filters, index, stride)
    moved = torch.stack(
        [torch.roll(g, (int(a) // stride, int(b) // stride), (1, 2)) for g, a, b in zip(grad, dy, dx, strict=True)]
    )
    expected = torch.roll(put(grad, filters, index, stride, *x.shape[2:]), (down, right), (2, 3))
    assert torch.equal(put(moved, filters, dy % stride + stride * (dx % stride), stride, *x.shape[2:]), expected)


@settings(deadline=None, max_examples=60)
@given(cases(), criteria, st.integers(0, 40), st.integers(0, 40))
def test_a_shift_moves_the_choice_and_changes_no_bit(
    case: tuple[Tensor, Tensor, int], criterion: str, down: int, right: int
) -> None:
    x, filters, stride = case
    index = choose(x, filters, stride, criterion)
    moved = torch.roll(x, (down, right), (2, 3))
    moved_index = choose(moved, filters, stride, criterion)
    dy, dx = index % stride + down, index // stride + right
    assert torch.equal(moved_index, dy % stride + stride * (dx % stride))
    taken, moved_taken = take(x, filters, index, stride), take(moved, filters, moved_index, stride)
    for n in range(len(x)):
        # The component itself moves by whole steps where the shift carries it over the border.
        steps = int(dy[n]) // stride, int(dx[n]) // stride
        assert torch.equal(moved_taken[n], torch.roll(taken[n], steps, (1, 2)))


@settings(deadline=None, max_examples=20)
@given(cases(), criteria)
def test_neither_the_batch_nor_the_threads_change_a_bit(case: tuple[Tensor, Tensor, int], criterion: str) -> None:
    x, filters, stride = case
    results = []
    before = torch.get_num_threads()
    for num_threads in (1, 2, 5):
        torch.set_num_threads(num_threads)
        index = choose(x, filters, stride, criterion)
        taken = take(x, filters, index, stride)
        results.append((index, taken, put(taken, filters, index, stride, *x.shape[2:])))
    torch.set_num_threads(before)
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))
    index, taken, back = results[0]
    for n in range(len(x)):
        alone, one = x[n : n + 1].contiguous(), index[n : n + 1]
        assert torch.equal(choose(alone, filters, stride, criterion), one)
        assert torch.equal(put(taken[n : n + 1], filters, one, stride, *x.shape[2:])[0], back[n])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("criterion", ["l2", "l1", "l2_min"])
def test_an_image_that_is_not_finite_keeps_the_first_component(value: float, criterion: str) -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x[1, :, 5, 2] = value  # 3e38 is finite, its square and the sum of three magnitudes are not
    filters = torch.ones(3, 1, 1, 1)
    index = choose(x, filters, 2, criterion)
    assert index[1] == 0
    assert index[0] == select(x, 2, criterion).index[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-30])
def test_a_tie_goes_to_the_lowest(criterion: str, value: float) -> None:
    x = torch.full((2, 4, 12, 12), value)
    assert choose(x, torch.ones(4, 1, 3, 3) / 9, 3, criterion).tolist() == [0, 0]


def test_an_empty_batch_is_no_error() -> None:
    x, filters = torch.empty(0, 2, 8, 8), torch.ones(2, 1, 3, 3)
    index = choose(x, filters, 2, "l2")
    assert index.shape == (0,)
    taken = take(x, filters, index, 2)
    assert taken.shape == (0, 2, 4, 4)
    assert put(taken, filters, index, 2, 8, 8).shape == x.shape


def test_an_index_of_no_component_is_refused() -> None:
    x, filters = torch.ones(2, 2, 8, 8), torch.ones(2, 1, 1, 1)
    with pytest.raises(ApsError, match=r"the CPU kernels refuse a map of shape \(2, 2, 8, 8\) or its indices"):
        take(x, filters, torch.tensor([0, 4]), 2)
    with pytest.raises(ApsError, match=r"the CPU kernels refuse a map of shape \(2, 2, 8, 8\) or its indices"):
        put(x[:, :, ::2, ::2].contiguous(), filters, torch.tensor([0, -1]), 2, 8, 8)


def test_what_is_not_finite_stays_beside_its_taps() -> None:
    taken, filters = torch.zeros(1, 1, 6, 6), torch.ones(1, 1, 3, 3)
    taken[0, 0, 2, 3] = float("nan")
    back = put(taken, filters, torch.tensor([1]), 2, 12, 12)  # row 2 of component 1 is row 5, column 3 is column 6
    rows, columns = back.isnan()[0, 0].nonzero(as_tuple=True)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(y, x) for y in (4, 5, 6) for x in (5, 6, 7)]


def test_results_have_the_type_of_the_map_whatever_the_default_is() -> None:
    x, filters = torch.randn(2, 3, 8, 8), torch.rand(3, 1, 3, 3)
    index = choose(x, filters, 2, "l2")
    expected = take(x, filters, index, 2)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found, back = take(x, filters, index, 2), put(expected, filters, index, 2, 8, 8)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found, expected) and torch.equal(back, put(expected, filters, index, 2, 8, 8))
    assert found.dtype == back.dtype == torch.float32
