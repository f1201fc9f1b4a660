from __future__ import annotations

import numpy as np
import pytest

from aps_deploy.errors import InputError
from aps_deploy.verification.batch import check_batches
from tests.verification.fakes import FakeRunner, Images, integer_images, invariant


def test_an_independent_model_passes_everything() -> None:
    runner = FakeRunner(invariant)
    result = check_batches(runner, integer_images(20))
    assert result.num_images == 8
    assert result.batch_size == 9
    for difference in (result.repeat, result.size, result.slot, result.identical_rows):
        assert (difference.max_abs, difference.excess, difference.identical) == (0, 0, True)
    assert set(runner.calls) == {1, 9}


def test_a_single_image_is_enough() -> None:
    result = check_batches(FakeRunner(invariant), integer_images(1))
    assert (result.num_images, result.batch_size) == (1, 5)
    assert result.size.identical


def test_dependence_on_the_batch_size_is_found() -> None:
    result = check_batches(FakeRunner(lambda images: invariant(images) + len(images)), integer_images(4))
    assert result.size.max_abs == 4  # batch of 5 against batch of 1
    assert result.slot.identical
    assert result.identical_rows.identical


def test_dependence_on_the_slot_is_found() -> None:
    def by_slot(images: Images) -> np.ndarray:
        return invariant(images) + np.arange(len(images), dtype=np.float32)[:, None]

    result = check_batches(FakeRunner(by_slot), integer_images(8))
    assert result.slot.max_abs == 8
    assert result.identical_rows.max_abs == 8
    assert result.repeat.identical


def test_a_model_that_does_not_repeat_itself_is_found() -> None:
    state = np.zeros(1, np.float32)

    def drifting(images: Images) -> np.ndarray:
        state[0] += 1
        return invariant(images) + state

    assert check_batches(FakeRunner(drifting), integer_images(3)).repeat.max_abs > 0


def test_nan_is_an_infinite_difference() -> None:
    result = check_batches(FakeRunner(lambda images: invariant(images) * np.float32(np.nan)), integer_images(2))
    assert result.repeat.max_abs == np.inf
    assert result.repeat.excess == np.inf
    assert result.to_dict()["repeat"]["max_abs"] is None


def test_differences_are_measured_in_tolerances_too() -> None:
    def slightly(images: Images) -> np.ndarray:
        return np.full((len(images), 3), 100.0) + 0.05 * (len(images) > 1)

    result = check_batches(FakeRunner(slightly), integer_images(3), atol=1e-4, rtol=1e-3)
    assert result.size.max_abs == pytest.approx(0.05)
    assert result.size.excess == pytest.approx(0.5, rel=1e-2)
    assert not result.size.identical
    exact = check_batches(FakeRunner(slightly), integer_images(3), atol=0, rtol=0)
    assert exact.size.excess == np.inf
    assert exact.repeat.excess == 0


def test_no_images() -> None:
    with pytest.raises(InputError):
        check_batches(FakeRunner(invariant), integer_images(0))
