"""The bodies against the PyTorch ops and against plain numpy, in both runtimes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto

from aps_deploy.export.op_names import Choice
from aps_deploy.polyphase import CRITERIA, component_scores, exact_mean, polyphase_index, polyphase_take
from tests.export.support import RUNTIMES, Runtime, known_maps, mean_model, run, select_model, with_scores

CHOICES = [
    Choice(criterion, selection, stride)
    for criterion in CRITERIA
    for selection in ("exact", "float")
    for stride in (2, 3)
]
NON_FINITE = ("nan", "inf", "minus_inf")


def _stack(maps: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack(list(maps.values()))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.suffix)
def test_equal_energies_give_equal_scores_and_indices(choice: Choice, runtime: Runtime) -> None:
    images = _stack(known_maps(choice.stride))
    x = torch.from_numpy(images)
    expected_scores = component_scores(x, choice.stride, choice.criterion, choice.selection)
    expected_index = polyphase_index(x, choice.stride, choice.criterion, choice.selection)

    kept, index, scores = run(with_scores(select_model(choice), choice), images, runtime)

    assert scores.dtype == expected_scores.numpy().dtype
    np.testing.assert_array_equal(scores, expected_scores.numpy())
    np.testing.assert_array_equal(index, expected_index.numpy())
    np.testing.assert_array_equal(kept, polyphase_take(x, expected_index, choice.stride).numpy())


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.suffix)
def test_index_is_the_lowest_of_the_best_components(choice: Choice, runtime: Runtime) -> None:
    maps = known_maps(choice.stride)
    _, index = run(select_model(choice), _stack(maps), runtime)
    overflows = choice.criterion.startswith("l2")
    for name, got in zip(maps, index, strict=True):
        if name in NON_FINITE or (name == "overflowing" and overflows):
            assert got == 0, name
        else:
            assert got == _best_component(maps[name].astype(np.float64), choice), name


def _best_component(image: np.ndarray, choice: Choice) -> int:
    """The definition, in float64, where the energies of these maps are exact."""
    s = choice.stride
    components = [image[:, k % s :: s, k // s :: s] for k in range(s * s)]
    score = {
        "l2": lambda part: np.square(part).sum(),
        "l1": lambda part: np.abs(part).sum(),
        "li": lambda part: np.abs(part).max(),
        "ma": lambda part: part.max(),
    }[choice.criterion[:2]]
    scores = [score(part) for part in components]
    return int(np.argmin(scores) if choice.criterion.endswith("_min") else np.argmax(scores))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_half_precision_maps_are_compared_in_float32(criterion: str, runtime: Runtime) -> None:
    choice = Choice(criterion)
    rng = np.random.default_rng(1)
    # Squares of 200 to 600 and their sums are beyond float16's largest number, 65504.
    shape = (16, 6, 8, 10)
    images = (rng.integers(200, 600, shape) * rng.choice([-1, 1], shape)).astype(np.float16)
    x = torch.from_numpy(images)
    expected = polyphase_index(x, 2, criterion, "exact")

    kept, index = run(select_model(choice, dtype=TensorProto.FLOAT16), images, runtime)

    assert kept.dtype == np.float16
    assert len(set(index.tolist())) > 1
    np.testing.assert_array_equal(index, expected.numpy())
    np.testing.assert_array_equal(kept, polyphase_take(x, expected).numpy())


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("stride", [2, 3])
def test_every_way_of_taking_gives_the_same_values(stride: int, runtime: Runtime) -> None:
    images = np.random.default_rng(2).standard_normal((9, 7, 2 * stride, 5 * stride)).astype(np.float32)
    choice = Choice("l2", "exact", stride)
    where, index = run(select_model(choice, form="where"), images, runtime)
    gather, same_index = run(select_model(choice, form="gather"), images, runtime)
    one_pass, third_index = run(select_model(choice, form="one-pass"), images, runtime)
    expected = polyphase_take(torch.from_numpy(images), torch.from_numpy(index), stride).numpy()
    assert len(set(index.tolist())) > 1
    np.testing.assert_array_equal(index, same_index)
    np.testing.assert_array_equal(index, third_index)
    assert where.tobytes() == gather.tobytes() == one_pass.tobytes() == expected.tobytes()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (8, 8), (14, 10)])
def test_mean_has_the_bits_of_the_torch_op(size: tuple[int, int], runtime: Runtime) -> None:
    rng = np.random.default_rng(3)
    images = rng.standard_normal((6, 19, *size)).astype(np.float32)
    images[1] *= np.float32(2.0**100)
    images[2] *= np.float32(2.0**-120)
    images[3] = 0.0
    images[4, 2, 0, 0], images[4, 3, -1, -1], images[4, 4, 0, -1] = np.nan, np.inf, -np.inf
    expected = exact_mean(torch.from_numpy(images)).numpy()

    (mean,) = run(mean_model(*size), images, runtime)

    assert np.isnan(mean[4, 2:5]).all()
    assert np.isfinite(np.delete(mean, 4, axis=0)).all()
    np.testing.assert_array_equal(mean, expected)
    reference = images[0].astype(np.float64).mean(axis=(1, 2))
    np.testing.assert_allclose(mean[0], reference, rtol=0, atol=2.0**-22 * np.abs(images[0]).max())
