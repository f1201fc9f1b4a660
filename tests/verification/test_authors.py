from __future__ import annotations

import json

import numpy as np
import pytest

from aps_deploy.errors import InputError
from aps_deploy.verification.authors import (
    CIFAR_PROTOCOL,
    IMAGENET_PROTOCOL,
    AuthorsProtocol,
    authors_consistency,
)
from tests.verification.fakes import FakeRunner, corner, integer_images, invariant


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


def test_no_images_are_refused() -> None:
    with pytest.raises(InputError):
        authors_consistency(FakeRunner(invariant), integer_images(0))


def test_the_protocols_batches_are_run_in_parts() -> None:
    runner = FakeRunner(corner)
    images = integer_images(7)
    in_parts = authors_consistency(runner, images, images[:, 0, 0, 0].astype(np.int64), batch_size=3)
    assert max(runner.calls) == 3
    assert in_parts == authors_consistency(FakeRunner(corner), images, images[:, 0, 0, 0].astype(np.int64))


def test_logits_that_are_not_finite_agree_with_nothing() -> None:
    def never(batch: np.ndarray) -> np.ndarray:
        return np.full((len(batch), 3), np.nan, np.float32)

    found = authors_consistency(FakeRunner(never), integer_images(4), np.zeros(4, np.int64))
    assert found.consistency_percent == 0
    assert found.accuracy_percent == 0
