from __future__ import annotations

import numpy as np
import pytest

from aps_deploy.errors import InputError
from aps_deploy.verification.consistency import measure_consistency
from aps_deploy.verification.report.heat_map import heat_map, legend, magnitude_scale, share_scale
from aps_deploy.verification.report.shift_grid import ShiftGrid, shift_grid
from aps_deploy.verification.shifts import ShiftSet, shift_set
from tests.verification.fakes import FakeRunner, Images, corner, integer_images

HEIGHT, WIDTH = 6, 9


def _grid(shifts: ShiftSet, function: object = corner) -> tuple[ShiftGrid, dict[str, object]]:
    found = measure_consistency(FakeRunner(function), integer_images(5, HEIGHT, WIDTH), shifts)  # type: ignore[arg-type]
    return shift_grid(found.to_dict(), shifts.to_dict()), found.to_dict()


@pytest.mark.parametrize("spec", ["all", "group", "7"])
def test_every_cell_is_its_shift(spec: str) -> None:
    shifts = shift_set(spec, height=HEIGHT, width=WIDTH, size_divisor=4)
    grid, _ = _grid(shifts)
    found = measure_consistency(FakeRunner(corner), integer_images(5, HEIGHT, WIDTH), shifts)
    expected = found.heat_map(HEIGHT, WIDTH)
    seen = 0
    for row, dy in enumerate(grid.downward):
        for column, dx in enumerate(grid.rightward):
            np.testing.assert_equal(grid.rates[row, column], expected[dy % HEIGHT, dx % WIDTH])
            seen += not np.isnan(grid.rates[row, column])
    assert seen == len(shifts) + 1
    assert grid.num_images == 5
    by_shift = {(record.dy, record.dx): record.max_logit_change for record in found.shifts}
    for (dy, dx), change in by_shift.items():
        cell = _cell(grid, dy, dx)
        assert grid.changes[cell] == change
    row, column = grid.unshifted
    assert grid.rates[row, column] == grid.changes[row, column] == 0


def _cell(grid: ShiftGrid, dy: int, dx: int) -> tuple[int, int]:
    row = next(row for row, value in enumerate(grid.downward) if (value - dy) % HEIGHT == 0)
    column = next(column for column, value in enumerate(grid.rightward) if (value - dx) % WIDTH == 0)
    return row, column


def test_the_group_is_shown_by_itself_and_other_sets_around_the_unshifted_image() -> None:
    group, _ = _grid(shift_set("group", height=HEIGHT, width=WIDTH, size_divisor=4))
    assert (group.downward, group.rightward) == ((0, 1, 2, 3), (0, 1, 2, 3))
    whole, _ = _grid(shift_set("all", height=HEIGHT, width=WIDTH))
    assert (whole.downward, whole.rightward) == (tuple(range(-3, 3)), tuple(range(-4, 5)))


def test_even_shifts_only_and_shifts_of_the_callers_own() -> None:
    even, _ = _grid(shift_set("all", height=HEIGHT, width=WIDTH, step=2))
    assert (even.downward, even.rightward) == ((-2, 0, 2), (-4, -2, 0, 2, 4))
    own, _ = _grid(ShiftSet("mine", ((-1, 0), (0, 7)), HEIGHT, WIDTH, 2))
    tried = {
        (dy, dx)
        for row, dy in enumerate(own.downward)
        for column, dx in enumerate(own.rightward)
        if not np.isnan(own.rates[row, column])
    }
    assert tried == {(0, 0), (-1, 0), (0, -2)}


def test_what_is_not_finite_is_the_darkest() -> None:
    def never(images: Images) -> np.ndarray:
        return np.full((len(images), 3), np.nan, np.float32)

    grid, _ = _grid(shift_set("group", height=HEIGHT, width=WIDTH, size_divisor=2), never)
    assert np.isposinf(grid.changes).sum() == 3
    scale = magnitude_scale(grid.changes)
    assert "∞" in heat_map(grid.changes, grid.downward, grid.rightward, scale, "x")


def test_columns_of_unequal_length_are_refused() -> None:
    shifts = shift_set("all", height=HEIGHT, width=WIDTH)
    _, document = _grid(shifts)
    document["shifts"]["dy"].pop()  # type: ignore[index]
    with pytest.raises(InputError, match="unequal length"):
        shift_grid(document, shifts.to_dict())


def test_small_maps_carry_their_numbers_and_all_maps_a_description() -> None:
    rates = np.array([[0.0, 0.25], [np.nan, 0.001]])
    drawn = heat_map(rates, (0, 1), (0, 1), share_scale(rates), "how often")
    assert 'aria-label="how often"' in drawn and 'role="img"' in drawn
    assert ">25 %<" in drawn and ">&lt;1 %<" in drawn
    large = np.zeros((32, 32))
    drawn = heat_map(large, range(-16, 16), range(-16, 16), share_scale(large), "how often")
    assert ">-16<" in drawn and ">0<" in drawn and drawn.count("<text") < 25


def test_scales_cover_both_maps() -> None:
    scale = share_scale(np.array([[0.0, 0.2]]), np.array([[0.0, 0.5]]))
    np.testing.assert_allclose(scale.position(np.array([0.25, 0.5])), [0.5, 1])
    scale = magnitude_scale(np.array([[0.0, 2e-7]]), np.array([[0.0, 3e-3, np.inf]]))
    assert (scale.low, scale.high) == pytest.approx((1e-7, 1e-2))
    assert "0: nothing changed" in legend(scale, not_tried=False)
    assert "not tried" in legend(scale, not_tried=True)
    for empty in (np.zeros((2, 2)), np.full((2, 2), np.nan)):
        heat_map(empty, (0, 1), (0, 1), magnitude_scale(empty), "x")
