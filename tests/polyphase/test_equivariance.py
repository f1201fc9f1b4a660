"""The property the project exists for: selection follows circular shifts, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aps_deploy.polyphase import CRITERIA, SELECTION_MODES, polyphase_index, polyphase_select, select

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@st.composite
def maps(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Draw a random map of any shape and type, with its stride."""
    stride = draw(st.sampled_from([2, 2, 3, 4]))
    height, width = (stride * draw(st.integers(1, 7)) for _ in range(2))
    n, channels = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(n, channels, height, width, generator=generator, dtype=torch.float64)
    return x.to(draw(st.sampled_from(DTYPES))), stride


@settings(max_examples=150, deadline=None)
@given(
    drawn=maps(),
    criterion=st.sampled_from(CRITERIA),
    shift=st.tuples(st.integers(-40, 40), st.integers(-40, 40)),
    channels_last=st.booleans(),
)
def test_choice_and_output_follow_the_shift(
    drawn: tuple[Tensor, int], criterion: str, shift: tuple[int, int], channels_last: bool
) -> None:
    x, stride = drawn
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    a, b = shift
    y, index = polyphase_select(x, stride, criterion)
    rolled_y, rolled_index = polyphase_select(torch.roll(x, shift, (2, 3)), stride, criterion)
    unique = select(x, stride, criterion).margin > 0
    for n in range(x.shape[0]):
        if not unique[n]:
            continue  # an exact tie between different contents has no equivariant answer by index
        dy, dx = int(index[n]) % stride, int(index[n]) // stride
        expected = (dy + a) % stride + stride * ((dx + b) % stride)
        assert int(rolled_index[n]) == expected
        moved = torch.roll(y[n], ((dy + a) // stride, (dx + b) // stride), (1, 2))
        assert torch.equal(rolled_y[n], moved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_random_maps_have_unique_winners(criterion: str, dtype: torch.dtype) -> None:
    # Guards the property test above against passing by skipping.
    x = torch.randn(64, 8, 12, 12, generator=torch.Generator().manual_seed(0)).to(dtype)
    # The largest of a few bfloat16 numbers is often shared: they have eight bits.
    often_tied = dtype == torch.bfloat16 and criterion in ("linf", "max")
    assert (select(x, 2, criterion).margin > 0).float().mean() > (0.5 if often_tied else 0.95)


@pytest.mark.parametrize("size", [(28, 28), (14, 14), (18, 22), (7 * 2, 9 * 2)])
def test_scores_are_permuted_exactly_where_plain_sums_are_not(size: tuple[int, int]) -> None:
    x = torch.randn(4, 48, *size, generator=torch.Generator().manual_seed(1))
    before = select(x).scores
    rolled = torch.roll(x, (1, 0), (2, 3))
    after = select(rolled).scores
    # A roll by one row swaps dy: components 0 <-> 1 and 2 <-> 3.
    assert torch.equal(after, before[:, [1, 0, 3, 2]])
    assert before.dtype == torch.int64


@pytest.mark.parametrize("shape", [(1, 64, 56, 56), (2, 512, 7, 7), (3, 48, 18, 22), (5, 17, 9, 11)])
@pytest.mark.parametrize("power", [1, 2])
def test_every_pixel_sums_its_channels_alike(shape: tuple[int, ...], power: int) -> None:
    from aps_deploy.polyphase.exact import energy_map

    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    energy = energy_map(x, power)
    for shift in [(1, 0), (0, 1), (3, 5)]:
        assert torch.equal(energy_map(torch.roll(x, shift, (2, 3)), power), torch.roll(energy, shift, (1, 2)))
    assert torch.equal(energy_map(x[:1], power), energy[:1])
    np.testing.assert_allclose(energy, (x.double().abs() ** power).sum(1), rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(drawn=maps(), criterion=st.sampled_from(CRITERIA), mode=st.sampled_from(SELECTION_MODES))
def test_agrees_with_an_independent_reference_in_float64(drawn: tuple[Tensor, int], criterion: str, mode: str) -> None:
    x, stride = drawn
    array = x.double().numpy()
    for n in range(array.shape[0]):
        scores = []
        for k in range(stride**2):
            component = array[n, :, k % stride :: stride, k // stride :: stride]
            scores.append(
                {
                    "l2": (component**2).sum(),
                    "l1": np.abs(component).sum(),
                    "linf": np.abs(component).max(),
                    "max": component.max(),
                }[criterion.removesuffix("_min")]
            )
        sign = -1 if criterion.endswith("_min") else 1
        ranked = np.sort(sign * np.array(scores))
        if ranked[-1] - ranked[-2] > 1e-5 * abs(ranked[-1]):
            assert int(polyphase_index(x[n : n + 1], stride, criterion, mode)) == int(
                np.argmax(sign * np.array(scores))
            )
