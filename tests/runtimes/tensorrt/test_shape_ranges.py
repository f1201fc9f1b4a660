from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aps_deploy.errors import InputError
from aps_deploy.runtimes.tensorrt.lanes import MAX_SHAPES
from aps_deploy.runtimes.tensorrt.shape_ranges import ShapeRange, pieces_of


def _range(index: int, low: int, best: int, high: int, sides: tuple[int, int] = (8, 8)) -> ShapeRange:
    return ShapeRange(index, (low, 3, sides[0], sides[0]), (best, 3, sides[0], sides[0]), (high, 3, sides[1], sides[1]))


RANGES = (_range(0, 2, 3, 4), _range(1, 6, 8, 8))


@pytest.mark.parametrize(
    ("count", "runs"),
    [
        (1, [(0, 2)]),
        (3, [(0, 3)]),
        (5, [(0, 4), (0, 2)]),
        (6, [(1, 6)]),
        (7, [(1, 8)]),
        (8, [(1, 8)]),
        (11, [(1, 8), (0, 3)]),
        (17, [(1, 8), (1, 8), (0, 2)]),
    ],
)
def test_batches_are_cut_and_filled(count: int, runs: list[tuple[int, int]]) -> None:
    assert [(piece.range.index, piece.count) for piece in pieces_of((count, 3, 8, 8), RANGES, "net")] == runs


@pytest.mark.parametrize(
    ("bounds", "counts"),
    [
        ((1, 8, 16), {1, 2, 4, 8, 16}),
        ((3, 6, 12), {3, 4, 6, 8, 12}),
        ((5, 5, 5), {5}),
        ((1, 24, 64), {1, 2, 4, 8, 16, 24, 32, 64}),
    ],
)
def test_runs_are_filled_up_to_few_counts(bounds: tuple[int, int, int], counts: set[int]) -> None:
    low, best, high = bounds
    ranges = (_range(0, low, best, high),)
    pieces = {count: pieces_of((count, 3, 8, 8), ranges, "net") for count in range(1, high + 1)}
    assert {piece.count for each in pieces.values() for piece in each} == counts
    for count, (piece,) in pieces.items():
        assert max(low, count) <= piece.count <= max(low, 2 * count - 1)
    # Who sends the best number gets just that.
    assert [pieces[count][0].count for count in bounds] == list(bounds)
    assert len(counts) <= MAX_SHAPES


def test_of_several_profiles_the_nearest_best_shape_is_taken() -> None:
    ranges = (_range(0, 1, 1, 16), _range(1, 1, 16, 16))
    assert [pieces_of((count, 3, 8, 8), ranges, "net")[0].range.index for count in (1, 4, 12, 16)] == [0, 0, 1, 1]


def test_the_size_decides_too() -> None:
    ranges = (_range(0, 1, 1, 4, (8, 16)), _range(1, 1, 1, 4, (18, 32)))
    assert [pieces_of((1, 3, side, side), ranges, "net")[0].range.index for side in (8, 16, 20)] == [0, 0, 1]
    message = (
        r"net: 2 images of 34x8 are outside every profile .*\(1 to 4 images of 8x8 to 16x16; 1 to 4 images of 18x18"
    )
    with pytest.raises(InputError, match=message):
        pieces_of((2, 3, 34, 8), ranges, "net")


@given(
    count=st.integers(1, 200),
    bounds=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), min_size=1, max_size=4),
)
def test_every_row_runs_once_in_a_profile_that_takes_it(count: int, bounds: list[tuple[int, int]]) -> None:
    ranges = [_range(index, low, low, low + more) for index, (low, more) in enumerate(bounds)]
    pieces = pieces_of((count, 3, 8, 8), ranges, "net")
    assert [row for piece in pieces for row in range(piece.rows.start, piece.rows.stop)] == list(range(count))
    for piece in pieces:
        assert piece.range.low[0] <= piece.count <= piece.range.high[0]
        assert piece.count >= piece.rows.stop - piece.rows.start
