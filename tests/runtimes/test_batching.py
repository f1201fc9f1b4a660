"""Batches through a session: what comes out does not depend on how the images were cut."""

from __future__ import annotations

import numpy as np
import pytest

from aps_deploy.errors import InputError
from aps_deploy.runtimes import iterate_outputs, open_session, predict_logits, run_batched
from aps_deploy.runtimes.batching import count_correct
from aps_deploy.runtimes.session import Outputs
from tests.runtimes import graphs


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_all_outputs_are_those_of_one_run(batch_size: int) -> None:
    images = graphs.images(7)
    with open_session(graphs.classifier()) as session:
        whole = session.run(images)
        parts = run_batched(session, images, batch_size=batch_size)
        logits = predict_logits(session, images, batch_size=batch_size)
    assert set(parts) == set(whole)
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, atol=2e-5)
        assert parts[name].dtype == values.dtype
    np.testing.assert_array_equal(logits, parts["logits"])


def test_slices_cover_the_images_in_order() -> None:
    images = graphs.images(7)
    with open_session(graphs.classifier()) as session:
        slices = [part for part, _ in iterate_outputs(session, images, batch_size=3)]
    assert slices == [slice(0, 3), slice(3, 6), slice(6, 7)]


def test_nothing_to_run_is_refused() -> None:
    with open_session(graphs.classifier()) as session:
        with pytest.raises(InputError, match="no images"):
            predict_logits(session, graphs.images(1)[:0])
        with pytest.raises(InputError, match="batch size is 0"):
            predict_logits(session, graphs.images(1), batch_size=0)


class Fixed:
    """A session that returns given logits, taking the rows' numbers from the images."""

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits

    def run(self, images: np.ndarray) -> Outputs:
        return {"logits": self.logits[images[:, 0, 0, 0].astype(int)]}


def test_correct_answers_are_counted() -> None:
    logits = np.array([[3, 2, 1], [1, 2, 3], [2, 2, 1], [np.nan, 9, 1]], np.float32)
    labels = np.array([0, 1, 1, 1], np.int64)
    images = np.arange(4, dtype=np.float32)[:, None, None, None] * np.ones((4, 3, 2, 2), np.float32)
    batches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    # Row 1 is wrong at first and right at second, row 2 ties (the lower class wins), row 3 has a NaN.
    assert count_correct(Fixed(logits), batches) == (1, 4)
    assert count_correct(Fixed(logits), batches, top_k=2) == (3, 4)
    assert count_correct(Fixed(logits), []) == (0, 0)
