"""Batches through a session: what comes out does not depend on how the images were cut."""

from __future__ import annotations

import numpy as np
import pytest

from aps_deploy.errors import InputError
from aps_deploy.runtimes import iterate_outputs, open_session, predict_logits, run_batched
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
