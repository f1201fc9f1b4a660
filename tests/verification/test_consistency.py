from __future__ import annotations

import json

import numpy as np
import pytest

from aps_deploy.errors import ApsError, InputError
from aps_deploy.verification.comparing import identical_rows
from aps_deploy.verification.consistency import WorstPair, measure_consistency
from aps_deploy.verification.shifts import shift_set
from tests.verification.fakes import FakeRunner, corner, integer_images, invariant

ALL = shift_set("all", height=6, width=8)


def test_an_invariant_function_is_fully_consistent() -> None:
    found = measure_consistency(FakeRunner(invariant), integer_images(5), ALL, batch_size=2)
    assert (found.num_images, found.num_shifts, found.num_pairs) == (5, 47, 235)
    assert found.top1_percent == found.identical_pairs_percent == found.identical_shifts_percent == 100
    assert found.max_logit_change == 0


def test_counts_equal_a_plain_loop() -> None:
    images = integer_images(7)
    found = measure_consistency(FakeRunner(corner), images, ALL, batch_size=3)
    agreeing = identical = same_shifts = 0
    changes = np.zeros((7, 47))
    for column, (dy, dx) in enumerate(ALL.offsets):
        pixels = images[:, :, -dy % 6, -dx % 8]
        same_class = pixels.argmax(axis=1) == images[:, :, 0, 0].argmax(axis=1)
        same = (pixels == images[:, :, 0, 0]).all(axis=1)
        agreeing += int(same_class.sum())
        identical += int(same.sum())
        same_shifts += bool(same.all())
        changes[:, column] = np.abs(pixels - images[:, :, 0, 0]).max(axis=1)
        record = found.shifts[column]
        assert (record.dy, record.dx) == (dy, dx)
        assert record.changed == 7 - same_class.sum()
        assert record.not_identical == 7 - same.sum()
        assert record.max_logit_change == changes[:, column].max()
    assert (found.agreeing_pairs, found.identical_pairs, found.identical_shifts) == (agreeing, identical, same_shifts)
    assert found.max_logit_change == changes.max()
    assert 0 < found.top1_percent < 100


def test_the_worst_image_and_shift_are_kept() -> None:
    images = np.zeros((3, 3, 6, 8), np.float32)
    images[1, 2, 3, 5] = 9  # only shift (3, 3) brings it to the corner
    found = measure_consistency(FakeRunner(corner), images, ALL)
    assert (found.worst_image, found.worst_shift) == (1, (3, 3))
    assert found.worst_pair == WorstPair(1, 3, 3, changes_class=True, identical=False, max_logit_change=9.0)
    assert found.num_pairs - found.agreeing_pairs == 1


def test_the_heat_map_is_the_share_of_changed_predictions() -> None:
    images = np.zeros((2, 3, 6, 8), np.float32)
    images[0, 2, 3, 5] = 9
    heat = measure_consistency(FakeRunner(corner), images, ALL).heat_map(6, 8)
    expected = np.zeros((6, 8))
    expected[3, 3] = 0.5
    np.testing.assert_array_equal(heat, expected)
    some = measure_consistency(FakeRunner(corner), images, shift_set("group", height=6, width=8, size_divisor=2))
    assert np.isnan(some.heat_map(6, 8)).sum() == 48 - 4


def test_tied_images_are_counted_apart() -> None:
    images = integer_images(4)
    tied = np.array([True, False, False, True])
    found = measure_consistency(FakeRunner(corner), images, ALL, tied=tied)
    alone = measure_consistency(FakeRunner(corner), images[1:3], ALL)
    others = measure_consistency(FakeRunner(corner), images[[0, 3]], ALL)
    assert (found.num_pairs, found.agreeing_pairs) == (alone.num_pairs, alone.agreeing_pairs)
    assert (found.tied_pairs, found.tied_agreeing_pairs) == (others.num_pairs, others.agreeing_pairs)
    assert found.tied_identical_pairs == others.identical_pairs
    assert found.worst_image in (1, 2)


def test_only_tied_images_prove_nothing() -> None:
    found = measure_consistency(FakeRunner(invariant), integer_images(2), ALL, tied=np.ones(2, bool))
    assert found.num_pairs == 0
    assert np.isnan(found.top1_percent)
    assert np.isnan(found.identical_shifts_percent)
    assert found.worst_image is None


def test_equal_numbers_of_unequal_bits_are_not_identical() -> None:
    first = np.array([[0.0, 1.0]], np.float32)
    assert not identical_rows(first, np.array([[-0.0, 1.0]], np.float32))[0]
    assert not identical_rows(first, np.nextafter(first, np.float32(2)))[0]
    assert identical_rows(first, first.copy())[0]


def test_values_that_are_not_finite_are_counted_and_never_json() -> None:
    def with_nan(images: np.ndarray) -> np.ndarray:
        logits = invariant(images)
        logits[0, 1] = np.nan
        return logits

    found = measure_consistency(FakeRunner(with_nan), integer_images(3), ALL)
    assert found.non_finite_pairs == 47
    assert found.max_logit_change == np.inf
    document = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(document)["max_logit_change"] is None


def test_a_runner_that_fails_on_shifted_images_only_is_not_consistent() -> None:
    images = integer_images(3)

    def unshifted_only(batch: np.ndarray) -> np.ndarray:
        logits = invariant(batch)
        for row, image in enumerate(batch):
            if not any(np.array_equal(image, known) for known in images):
                logits[row] = np.nan
        return logits

    def never(batch: np.ndarray) -> np.ndarray:
        return np.full((len(batch), 3), np.nan, np.float32)

    # The first is not a number under a shift only, the second with equal bits everywhere.
    for function in (unshifted_only, never):
        found = measure_consistency(FakeRunner(function), images, ALL)
        assert found.top1_percent == found.identical_pairs_percent == found.identical_shifts_percent == 0
        assert found.non_finite_pairs == found.num_pairs == 141
        assert found.shifts[0].changed == found.shifts[0].not_identical == 3


def test_a_session_that_lends_its_buffer_is_copied() -> None:
    buffer = np.zeros((4, 3), np.float32)

    def lend(images: np.ndarray) -> np.ndarray:
        buffer[:] = corner(images)
        return buffer

    lent = measure_consistency(FakeRunner(lend), integer_images(4), ALL)
    assert lent == measure_consistency(FakeRunner(corner), integer_images(4), ALL)
    assert lent.top1_percent < 100


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(InputError):
        measure_consistency(FakeRunner(invariant), integer_images(0), ALL)
    with pytest.raises(InputError, match="batch size is 0"):
        measure_consistency(FakeRunner(invariant), integer_images(1), ALL, batch_size=0)


def test_a_model_without_logits_is_an_error() -> None:
    class Silent:
        def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
            return {"features": images}

    with pytest.raises(ApsError, match="features"):
        measure_consistency(Silent(), integer_images(1), ALL)
    with pytest.raises(ApsError, match="shape"):
        measure_consistency(FakeRunner(lambda images: images), integer_images(1), ALL)


def test_progress_ends_at_the_total() -> None:
    seen: list[tuple[int, int]] = []
    measure_consistency(
        FakeRunner(invariant),
        integer_images(5),
        ALL,
        batch_size=2,
        progress=lambda _, done, total: seen.append((done, total)),
    )
    assert seen[-1] == (235, 235)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
