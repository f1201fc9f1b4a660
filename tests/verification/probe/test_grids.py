"""How far maps move: held against real maps, rolled and sampled with NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from aps_deploy.verification.probe.grids import Grid, common_ancestor, enlarged, local_offsets, sampled
from aps_deploy.verification.probe.states import STILL, Moving, fits, image_state, moved, regrouped, same_bits

IMAGE = Grid(12, 12)


@pytest.mark.parametrize("stride", [2, 3])
def test_a_component_moves_as_its_phase_says(stride: int) -> None:
    image = np.random.default_rng(0).standard_normal((12, 12))
    for (py, px), (dy, dx) in itertools.product(
        itertools.product(range(stride), repeat=2), itertools.product(range(-3, 14), (0, 5))
    ):
        grid = Grid(12 // stride, 12 // stride, IMAGE, (stride, stride), phase=(py, px))
        shifted = np.roll(image, (dy, dx), axis=(0, 1))
        # The component that was at the phase is found where the shift took it.
        found = shifted[(py + dy) % stride :: stride, (px + dx) % stride :: stride]
        expected = np.roll(image[py::stride, px::stride], grid.movement(IMAGE, (dy, dx)), axis=(0, 1))
        np.testing.assert_array_equal(found, expected)


def test_movements_go_down_the_generations() -> None:
    half = Grid(6, 6, IMAGE, (2, 2), phase=(1, 0))
    quarter = Grid(3, 3, half, (2, 2), phase=(1, 0))
    assert half.movement(IMAGE, (1, 1)) == (1, 0)
    assert quarter.movement(IMAGE, (1, 1)) == (1, 0)
    assert quarter.movement(half, (2, 2)) == (1, 1)
    assert enlarged(half, (2, 2)).movement(IMAGE, (1, 1)) == (2, 0)
    assert common_ancestor([quarter, half]) == half
    assert common_ancestor([quarter, Grid(6, 6, IMAGE, (2, 2))]) == IMAGE
    with pytest.raises(ValueError, match="no map on this grid"):
        half.movement(quarter, (1, 1))


def test_a_stride_leaves_one_grid_for_each_phase() -> None:
    assert sampled(IMAGE, (1, 1), (12, 14)) == (IMAGE,)
    assert [grid.phase for grid in sampled(IMAGE, (2, 1), (6, 12))] == [(0, 0), (1, 0)]
    assert sampled(IMAGE, (1, 1), (10, 12))[0].size == (10, 12)  # lost at the border
    assert sampled(IMAGE, (2, 2), (6, 6))[0].phase == (0, 0)


def test_offsets_stay_on_the_map_and_move_it() -> None:
    for height, width in ((1, 1), (1, 4), (2, 2), (7, 7), (12, 5)):
        offsets = local_offsets(Grid(height, width))
        assert (0, 0) not in offsets
        assert all(0 <= dy < height and 0 <= dx < width for dy, dx in offsets)
        assert bool(offsets) == (height * width > 1)


def test_arrays_move_whatever_their_layout_is() -> None:
    image = np.random.default_rng(1).standard_normal((2, 3, 4, 6))
    state = image_state(image.shape)
    rolled = np.roll(image, (1, 2), axis=(2, 3))
    np.testing.assert_array_equal(moved(image, state, (1, 2)), rolled)
    np.testing.assert_array_equal(moved(image, STILL, (1, 2)), image)
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (2, 2)), mode="wrap")
    expected = np.pad(rolled, ((0, 0), (0, 0), (1, 1), (2, 2)), mode="wrap")
    np.testing.assert_array_equal(moved(padded, state, (1, 2)), expected)
    for shape in ((2, 72), (2, 3, 24), (6, 4, 6), (2, 3, 1, 4, 6), (2, 1, 72)):
        axes = regrouped(state, image.shape, shape)
        assert axes is not None
        np.testing.assert_array_equal(
            moved(image.reshape(shape), Moving(state.grid, axes), (1, 2)), rolled.reshape(shape)
        )
    turned = Moving(state.grid, tuple(state.axes[axis] for axis in (0, 2, 3, 1)))
    np.testing.assert_array_equal(moved(image.transpose(0, 2, 3, 1), turned, (1, 2)), rolled.transpose(0, 2, 3, 1))


def test_rows_cannot_be_cut() -> None:
    state = image_state((2, 3, 4, 6))
    assert regrouped(state, (2, 3, 4, 6), (2, 3, 2, 2, 6)) is None
    assert regrouped(state, (2, 3, 6, 8), (2, 144)) is None  # padded rows are no rows of the map
    assert not fits(state, (2, 3, 3, 6))
    assert fits(state, (2, 3, 5, 6))


def test_bits_and_not_numbers_are_compared() -> None:
    assert same_bits(np.array([np.nan, 0.0]), np.array([np.nan, 0.0]))
    assert not same_bits(np.array([0.0]), np.array([-0.0]))
    assert not same_bits(np.zeros(2, np.float32), np.zeros(2))
