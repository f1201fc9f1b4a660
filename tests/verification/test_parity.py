from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from aps_deploy.verification.parity import compare_logits, percent_right

LOGITS = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)


def test_equal_logits() -> None:
    parity = compare_logits(LOGITS, LOGITS, atol=1e-4, rtol=1e-3)
    assert (parity.max_abs, parity.max_rel, parity.mean_abs, parity.worst_excess) == (0, 0, 0, 0)
    assert parity.cosine == pytest.approx(1)
    assert (parity.top1_percent, parity.top5_percent) == (100, 100)


def test_errors_are_those_of_a_plain_loop() -> None:
    other = LOGITS.copy()
    other[2, 3] += np.float32(0.25)
    other[4, 7] -= np.float32(0.125)
    parity = compare_logits(other, LOGITS, atol=1e-2, rtol=1e-1)
    difference = np.abs(other.astype(float) - LOGITS.astype(float))
    assert parity.max_abs == difference.max()
    assert parity.mean_abs == difference.mean()
    assert parity.max_rel == (difference / np.abs(LOGITS)).max()
    assert parity.worst_excess == pytest.approx((difference / (1e-2 + 1e-1 * np.abs(LOGITS))).max())
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(other, LOGITS, strict=True)]
    assert parity.cosine == pytest.approx(min(cosines))


def test_a_class_change_is_clear_only_outside_the_tolerance() -> None:
    reference = np.array([[1.0, 1.0 + 1e-5, 0.0], [1.0, 2.0, 0.0]], np.float32)
    swapped = reference[:, [1, 0, 2]]
    parity = compare_logits(swapped, reference, atol=1e-4, rtol=0)
    assert parity.top1_percent == 0
    assert parity.clear_disagreements == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_has_infinite_error(bad: float, side: int) -> None:
    pair = [LOGITS.copy(), LOGITS.copy()]
    pair[side][1, 1] = bad
    parity = compare_logits(*pair, atol=1, rtol=1)
    assert parity.non_finite == 1
    assert parity.max_abs == parity.worst_excess == np.inf
    assert parity.worst_image == 1
    document = json.loads(json.dumps(parity.to_dict(), allow_nan=False))
    assert document["max_abs"] is None
    assert document["cosine"] is None


def test_accuracies_and_what_was_lost() -> None:
    labels = LOGITS.argmax(axis=1)
    assert (percent_right(LOGITS, labels), percent_right(-LOGITS, labels), percent_right(LOGITS, None)) == (
        100,
        0,
        None,
    )
    parity = compare_logits(LOGITS, LOGITS, atol=1, rtol=1)
    assert parity.accuracy_drop_points is None
    known = dataclasses.replace(parity, file_accuracy_percent=86.0, reference_accuracy_percent=88.5)
    assert known.accuracy_drop_points == 2.5


def test_zero_tolerance_accepts_equal_logits_only() -> None:
    assert compare_logits(LOGITS, LOGITS, atol=0, rtol=0).worst_excess == 0
    other = np.nextafter(LOGITS, np.float32(9))
    assert compare_logits(other, LOGITS, atol=0, rtol=0).worst_excess == np.inf


def test_zero_rows_and_few_classes() -> None:
    zeros = np.zeros((2, 1), np.float32)
    parity = compare_logits(zeros, zeros, atol=1e-4, rtol=0)
    assert parity.cosine == 1
    assert parity.top5_percent == 100
    assert compare_logits(zeros, zeros + 1, atol=1e-4, rtol=0).cosine == 0


def test_shapes_must_match_and_hold_something() -> None:
    with pytest.raises(ValueError):
        compare_logits(LOGITS, LOGITS[:, :5], atol=1, rtol=1)
    with pytest.raises(ValueError):
        compare_logits(LOGITS[:0], LOGITS[:0], atol=1, rtol=1)
