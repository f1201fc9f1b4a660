"""What the bodies are for: roll the input and every bit follows, in whatever batch and with any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

from aps_deploy.export.bodies import BodyForm
from aps_deploy.export.op_names import Choice
from aps_deploy.polyphase import CRITERIA
from tests.export.support import RUNTIMES, Runtime, mean_model, ort_session, run, select_model, with_scores

# Only sums have a body of their own for one pass; how a component is taken moves no bit (`test_bodies`).
BODIES: list[tuple[str, BodyForm]] = [
    *((criterion, "where") for criterion in CRITERIA),
    *((criterion, "one-pass") for criterion in CRITERIA if criterion not in ("linf", "max")),
]
# (C, H, W): widths that are no multiple of a vector register, one channel, odd component sizes, rectangles.
SHAPES = [(1, 6, 6), (3, 14, 14), (16, 28, 28), (64, 14, 10), (5, 2, 18), (17, 56, 22)]


def _shifts(rng: np.random.Generator, height: int, width: int, count: int) -> list[tuple[int, int]]:
    return [(1, 0), (0, 1), *((int(rng.integers(height)), int(rng.integers(width))) for _ in range(count))]


def _is_unique(scores: np.ndarray, criterion: str) -> np.ndarray:
    ranked = np.sort(scores, axis=1)
    return ranked[:, 0] < ranked[:, 1] if criterion.endswith("_min") else ranked[:, -1] > ranked[:, -2]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize(("criterion", "form"), BODIES)
def test_selection_follows_every_shift_bit_for_bit(
    criterion: str, form: BodyForm, stride: int, runtime: Runtime
) -> None:
    choice = Choice(criterion, "exact", stride)
    model = with_scores(select_model(choice, form=form), choice)
    rng = np.random.default_rng(4)
    for channels, height, width in SHAPES if stride == 2 else [(3, 9, 15), (16, 21, 12)]:
        images = rng.standard_normal((5, channels, height, width)).astype(np.float32)
        kept, index, scores = run(model, images, runtime)
        unique = _is_unique(scores, criterion)
        assert unique.any()
        for a, b in _shifts(rng, height, width, count=4):
            rolled = np.roll(images, (a, b), axis=(2, 3))
            new_kept, new_index, _ = run(model, rolled, runtime)
            dy, dx = index % stride + a, index // stride + b
            np.testing.assert_array_equal(new_index[unique], (dy % stride + stride * (dx % stride))[unique])
            for n in np.flatnonzero(unique):
                moved = np.roll(kept[n], (dy[n] // stride, dx[n] // stride), axis=(1, 2))
                assert new_kept[n].tobytes() == moved.tobytes(), (criterion, channels, height, width, a, b)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("size", [(7, 7), (8, 8), (5, 12)])
def test_mean_keeps_its_bits_under_every_shift(size: tuple[int, int], runtime: Runtime) -> None:
    rng = np.random.default_rng(5)
    images = rng.standard_normal((3, 33, *size)).astype(np.float32)
    model = mean_model(*size)
    (mean,) = run(model, images, runtime)
    for a, b in _shifts(rng, *size, count=6):
        assert run(model, np.roll(images, (a, b), axis=(2, 3)), runtime)[0].tobytes() == mean.tobytes()


@pytest.mark.parametrize(("criterion", "form"), BODIES)
def test_neither_batch_nor_threads_change_a_bit(criterion: str, form: BodyForm) -> None:
    choice = Choice(criterion)
    model = with_scores(select_model(choice, form=form), choice)
    images = np.random.default_rng(6).standard_normal((8, 24, 18, 22)).astype(np.float32)
    expected = ort_session(model, threads=1).run(None, {"X": images})
    for threads in (2, 3):
        session = ort_session(model, threads=threads)
        for values, reference in zip(session.run(None, {"X": images}), expected, strict=True):
            assert values.tobytes() == reference.tobytes()
        for n in range(len(images)):
            for values, reference in zip(session.run(None, {"X": images[n : n + 1]}), expected, strict=True):
                assert values.tobytes() == reference[n : n + 1].tobytes()
