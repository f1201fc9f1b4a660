"""Scores by one reduction: against whole numbers of Python, for values of every size, and against the PyTorch op."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from aps_deploy.export.bodies import BodyForm, index_function
from aps_deploy.export.one_pass import DIGIT_BITS, LARGEST, LOWEST_EXPONENT, groups_for
from aps_deploy.export.op_names import Choice
from aps_deploy.polyphase import polyphase_index, polyphase_take
from tests.export.support import OPSET, RUNTIMES, Runtime, known_maps, run, select_model, with_scores

CRITERIA = ("l2", "l1", "l2_min", "l1_min")
# What known maps the float32 range of this form cannot tell apart.
BEYOND = ("huge", "tiny", "below_the_floor", "overflowing")


def _one_pass(
    criterion: str = "l2", *, stride: int = 2, dtype: int = TensorProto.FLOAT, groups: int = 1
) -> onnx.ModelProto:
    choice = Choice(criterion, "exact", stride)
    return with_scores(select_model(choice, form="one-pass", dtype=dtype, groups=groups), choice)


def _expected_scores(image: np.ndarray, choice: Choice) -> list[int]:
    """The scores of one (C, H, W) map, added as whole numbers of any size."""
    with np.errstate(over="ignore", invalid="ignore"):
        terms = np.abs(image) if choice.criterion.startswith("l1") else image.astype(np.float32) ** 2
    s = choice.stride
    if not np.isfinite(terms).all():
        return [0] * s**2
    units = np.frompyfunc(lambda term: math.floor(Fraction(float(term)) / Fraction(2) ** LOWEST_EXPONENT), 1, 1)
    whole = units(np.minimum(terms, np.float32(LARGEST)))
    sums = [int(whole[:, k % s :: s, k // s :: s].sum()) for k in range(s * s)]
    above = max(sums) >> 2 * DIGIT_BITS
    dropped_digits = 0 if above == 0 else 1 if above < 2**DIGIT_BITS else 2
    return [total >> dropped_digits * DIGIT_BITS for total in sums]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("groups", [1, 2])
def test_sums_are_those_of_whole_numbers(groups: int, criterion: str, stride: int, runtime: Runtime) -> None:
    choice, model = Choice(criterion, "exact", stride), _one_pass(criterion, stride=stride, groups=groups)
    rng = np.random.default_rng(1)
    # From all below the lowest unit to an overflow of the square; 9e4 is the largest in range.
    scales = [1e-12, 1e-8, 1e-6, 1e-3, 1.0, 300.0, 9e4, 3e5, 1e12, 1e25]
    images = np.stack([scale * rng.uniform(-1, 1, (6, 2 * stride, 5 * stride)) for scale in scales]).astype(np.float32)
    kept, index, scores = run(model, images, runtime)
    assert scores.tolist() == [_expected_scores(image, choice) for image in images]
    best = scores.argmin(axis=1) if criterion.endswith("_min") else scores.argmax(axis=1)
    np.testing.assert_array_equal(index, best)
    expected = polyphase_take(torch.from_numpy(images), torch.from_numpy(index), stride)
    np.testing.assert_array_equal(kept, expected.numpy())


def test_the_coarsest_scale_holds_the_largest_maps() -> None:
    model = _one_pass()
    # 8,192 squares of 2**33 in each component: beyond two digits and 31 bits.
    image = np.random.default_rng(2).uniform(9.2e4, 9.6e4, (1, 32, 32, 32)).astype(np.float32)
    scores = run(model, image)[2]
    assert scores.tolist() == [_expected_scores(image[0], Choice())]
    assert 2**DIGIT_BITS <= scores.max() < 2 ** (DIGIT_BITS + 1)


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_groups_of_channels_change_no_score(groups: int) -> None:
    images = np.random.default_rng(6).standard_normal((50, 24, 6, 10)).astype(np.float32)
    images[7, 5, 3, 3] = np.nan
    for found, expected in zip(run(_one_pass(groups=groups), images), run(_one_pass(), images), strict=True):
        assert found.tobytes() == expected.tobytes()


def test_maps_are_cut_into_as_many_groups_as_divide_all_their_channels() -> None:
    assert [groups_for(channels) for channels in ([64, 128], [24, 12], [16, 3], [64, 0])] == [8, 4, 1, 1]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_of_half_precision_maps_nothing_is_lost(runtime: Runtime) -> None:
    model = _one_pass(dtype=TensorProto.FLOAT16)
    bits = np.random.default_rng(3).integers(0, 0x7C00, (24, 3, 6, 10)).astype(np.uint16)
    images = bits.view(np.float16)  # every finite size alike, from the smallest subnormal to 65504
    images[12:] *= np.float16(2.0**-14)
    _, index, scores = run(model, images, runtime)
    for image, chosen, found in zip(images, index, scores, strict=True):
        squares = np.frompyfunc(lambda value: Fraction(float(value)) ** 2, 1, 1)(image)
        sums = [squares[:, k % 2 :: 2, k // 2 :: 2].sum() for k in range(4)]
        assert sums[chosen] == max(sums)
        if max(sums) < 2**14:
            assert [Fraction(int(score)) * Fraction(2) ** LOWEST_EXPONENT for score in found] == sums
    assert any(found.max() < 2**62 and chosen for chosen, found in zip(index, scores, strict=True))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_known_maps_have_the_index_of_the_torch_op(criterion: str, stride: int, runtime: Runtime) -> None:
    maps = {name: image for name, image in known_maps(stride).items() if name not in BEYOND}
    images = np.stack(list(maps.values()))
    model = _one_pass(criterion, stride=stride)
    expected = polyphase_index(torch.from_numpy(images), stride, criterion, "exact")
    np.testing.assert_array_equal(run(model, images, runtime)[1], expected.numpy())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20])
def test_one_number_that_is_none_gives_index_0(value: float) -> None:
    model = _one_pass()
    images = np.random.default_rng(4).standard_normal((64, 4, 8, 8)).astype(np.float32)
    before = run(model, images)[1]
    assert set(before.tolist()) == {0, 1, 2, 3}
    images[::2, 3, 7, 7] = value
    _, index, scores = run(model, images)
    assert not index[::2].any() and not scores[::2].any()
    np.testing.assert_array_equal(index[1::2], before[1::2])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_torch_op_chooses_the_same(dtype: type[np.floating]) -> None:
    images = np.random.default_rng(5).standard_normal((200, 12, 10, 14)).astype(dtype)
    kind = TensorProto.FLOAT16 if dtype is np.float16 else TensorProto.FLOAT
    for criterion in CRITERIA:
        model = _one_pass(criterion, dtype=kind)
        _, index, scores = run(model, images)
        ranked = np.sort(scores.astype(np.float64), axis=1)
        margins = (ranked[:, 1:] - ranked[:, :-1]).min(axis=1) / ranked[:, -1]
        clear = margins > 1e-6  # the op adds channels in float32
        assert clear.mean() > 0.95
        expected = polyphase_index(torch.from_numpy(images), 2, criterion, "exact").numpy()
        np.testing.assert_array_equal(index[clear], expected[clear])


@pytest.mark.parametrize("choice", [Choice("linf"), Choice("max"), Choice("l2", "float")], ids=lambda c: c.suffix)
def test_what_is_no_exact_sum_is_chosen_as_ever(choice: Choice) -> None:
    forms: tuple[BodyForm, ...] = ("one-pass", "where")
    one_pass, where = (index_function(choice, form=form, opset=OPSET) for form in forms)
    assert one_pass.SerializeToString(deterministic=True) == where.SerializeToString(deterministic=True)
