from __future__ import annotations

import json

import numpy as np
import pytest

from aps_deploy.errors import ApsError, InputError
from aps_deploy.verification.consistency import (
    CIFAR_PROTOCOL,
    IMAGENET_PROTOCOL,
    AuthorsProtocol,
    authors_consistency,
    identical_rows,
    measure_consistency,
)
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
    with pytest.raises(InputError):
        authors_consistency(FakeRunner(invariant), integer_images(0))
    with pytest.raises(InputError, match="batch size 0"):
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


def test_the_authors_shifts_of_seed_0() -> None:
    # 40 batches, as CIFAR-10's 10,000 test images make; the pairs recorded from the authors' code.
    found = authors_consistency(FakeRunner(invariant), integer_images(10_000, 2, 2))
    assert found.pairs[:6] == (
        ((1, 2), (-3, 0)),
        ((0, 0), (-2, 0)),
        ((2, -1), (1, -3)),
        ((-3, 1), (-1, -2)),
        ((-3, -2), (2, -2)),
        ((2, -3), (-2, 1)),
    )
    assert len(found.pairs) == 40
    assert found.pairs[-1] == ((0, 2), (-3, -3))
    assert found.consistency_percent == 100
    assert found.accuracy_percent is None


def test_imagenet_shifts_stay_within_the_authors_range() -> None:
    offsets = np.array(authors_consistency(
        FakeRunner(invariant), integer_images(3000, 2, 2), protocol=AuthorsProtocol("x", -32, 32, 2, "images")
    ).pairs)  # fmt: skip
    assert (offsets.min(), offsets.max()) == (-32, 31)
    assert (IMAGENET_PROTOCOL.low, IMAGENET_PROTOCOL.high) == (-32, 32)


def test_a_short_last_batch_weighs_as_the_authors_weigh_it() -> None:
    images = integer_images(5)
    by_batch = AuthorsProtocol("x", -3, 3, 4, "batches")
    first = authors_consistency(FakeRunner(corner), images, protocol=by_batch)
    second = authors_consistency(FakeRunner(corner), images, protocol=AuthorsProtocol("x", -3, 3, 4, "images"))
    shares = []
    for rows, (one, two) in zip((slice(0, 4), slice(4, 5)), first.pairs, strict=True):
        classes = [np.roll(images[rows], shift, axis=(2, 3))[:, :, 0, 0].argmax(axis=1) for shift in (one, two)]
        shares.append((classes[0] == classes[1]).mean())
    assert first.consistency_percent == pytest.approx(100 * np.mean(shares))
    assert second.consistency_percent == pytest.approx(100 * (4 * shares[0] + shares[1]) / 5)


def test_accuracy_is_that_of_the_unshifted_images() -> None:
    images = integer_images(6)
    labels = corner(images).argmax(axis=1)
    labels[0] = (labels[0] + 1) % 3
    found = authors_consistency(FakeRunner(corner), images, labels, protocol=CIFAR_PROTOCOL)
    assert found.accuracy_percent == pytest.approx(100 * 5 / 6)
    assert json.loads(json.dumps(found.to_dict()))["pairs"] == [[list(a), list(b)] for a, b in found.pairs]
