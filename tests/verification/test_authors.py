from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from aps_deploy.errors import InputError
from aps_deploy.verification.authors import (
    CIFAR_PROTOCOL,
    IMAGENET_PROTOCOL,
    PROTOCOLS,
    AuthorsProtocol,
    ProtocolName,
    authors_consistency,
)
from tests.verification.fakes import FakeRunner, corner, integer_images, invariant

Prepare = Callable[[np.ndarray, np.random.RandomState], np.ndarray]
Shift = Callable[[np.ndarray, int, int], np.ndarray]


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
    assert found.protocol_accuracy_percent == pytest.approx(found.accuracy_percent), "one batch has one average"
    two_batches = authors_consistency(
        FakeRunner(corner), images, labels, protocol=AuthorsProtocol("x", -3, 3, 4, "batches")
    )
    assert two_batches.accuracy_percent == pytest.approx(100 * 5 / 6)
    assert two_batches.protocol_accuracy_percent == pytest.approx(100 * (3 / 4 + 2 / 2) / 2)
    assert json.loads(json.dumps(found.to_dict()))["pairs"] == [[list(a), list(b)] for a, b in found.pairs]


def expected(images: np.ndarray, prepare: Prepare, shift: Shift) -> float:
    """Return the share of agreeing classes, as the protocol describes it, for one batch of seed 0."""
    generator = np.random.RandomState(0)
    images = prepare(images, generator)
    draws = [generator.randint(-3, 3, 2) for _ in range(2)]
    first, second = (corner(shift(images, int(dy), int(dx))).argmax(axis=1) for dy, dx in draws)
    return 100 * float((first == second).mean())


def keep(images: np.ndarray, generator: np.random.RandomState) -> np.ndarray:
    return images


def erase(images: np.ndarray, generator: np.random.RandomState) -> np.ndarray:
    y, x = generator.randint(0, 32 - 3 - 3, 2)
    images = images.copy()
    images[:, :, y : y + 3, x : x + 3] = 0
    return images


def flip(images: np.ndarray, generator: np.random.RandomState) -> np.ndarray:
    return np.flip(images, axis=(2, 3))


def circular(images: np.ndarray, dy: int, dx: int) -> np.ndarray:
    return np.roll(images, (dy, dx), axis=(2, 3))


def crop(images: np.ndarray, dy: int, dx: int) -> np.ndarray:
    padded = torch.nn.functional.pad(torch.from_numpy(images), (3, 3, 3, 3))
    return padded[:, :, dy + 3 : dy - 3, dx + 3 : dx - 3].numpy()


@pytest.mark.parametrize(
    ("name", "prepare", "shift"),
    [
        ("cifar", keep, circular),
        ("cifar-crop", keep, crop),
        ("cifar-erase", erase, circular),
        ("cifar-flip", flip, circular),
    ],
)
def test_every_protocol_as_it_is_described(name: ProtocolName, prepare: Prepare, shift: Shift) -> None:
    images = integer_images(200, 32, 32)
    labels = corner(prepare(images, np.random.RandomState(0))).argmax(axis=1)
    found = authors_consistency(FakeRunner(corner), images, labels, protocol=PROTOCOLS[name])
    assert found.protocol.name == name
    assert found.consistency_percent == pytest.approx(expected(images, prepare, shift))
    assert 0 < found.consistency_percent < 100
    assert found.accuracy_percent == 100, "of the images as the protocol changes them, unshifted"


def test_an_erased_square_needs_room() -> None:
    with pytest.raises(InputError, match="6 x 6 pixels; protocol cifar-erase needs more than 6"):
        authors_consistency(FakeRunner(corner), integer_images(2, 6, 6), protocol=PROTOCOLS["cifar-erase"])


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


def test_a_protocol_says_how_it_moves_and_averages() -> None:
    words = {name: protocol.describe() for name, protocol in PROTOCOLS.items()}
    assert len(set(words.values())) == len(words)
    assert words["cifar"] == "circularly by -3 to 2 pixels per axis; mean over batches of 256"
    assert words["imagenet"] == "circularly by -32 to 31 pixels per axis; mean over images in batches of 256"
    assert "3 x 3 pixels was blanked" in words["cifar-erase"] and "upside down" in words["cifar-flip"]
    assert "nothing is promised" in words["cifar-crop"]
