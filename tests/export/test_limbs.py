"""Sums in 32 bits: the same scores, indices and means as in 64 bits, to the last bit, and never beyond 2**24."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto

from aps_deploy.errors import ApsError
from aps_deploy.export.limbs import limb_bits, num_limbs
from aps_deploy.export.op_names import LIMB_BITS, Choice
from aps_deploy.polyphase import CRITERIA, component_scores, exact_mean, polyphase_index, polyphase_take
from aps_deploy.verification.instrument import whole_scores
from tests.export.support import RUNTIMES, Runtime, known_maps, mean_model, run, select_model, with_scores

OPSET = 17
SUMMING = [criterion for criterion in CRITERIA if Choice(criterion).has_sums]
# The largest map of stride 2, in pixels of a component, that limbs of so many bits are written for.
LARGEST = {15: (16, 32), 10: (128, 128), 8: (256, 256), 6: (512, 512)}


def _select(choice: Choice, images: np.ndarray, runtime: Runtime = "onnxruntime") -> list[np.ndarray]:
    """Kept components, indices and scores, these as whole numbers where they are written in limbs."""
    kept, index, scores = run(with_scores(select_model(choice, opset=OPSET), choice), images, runtime)
    assert index.dtype == np.int32
    if not choice.has_sums:
        return [kept, index, scores]
    assert scores.dtype == np.int32
    assert np.abs(scores.astype(np.int64)).max() <= 2**24
    return [kept, index, whole_scores(scores, choice.limb_bits).astype(np.int64)]


def test_limbs_are_the_widest_whose_sums_a_float32_holds() -> None:
    for pixels, bits in ((1, 15), (512, 15), (513, 10), (2**14, 10), (2**14 + 1, 8), (2**16, 8), (2**18, 6)):
        assert limb_bits(pixels) == bits
    assert tuple(LARGEST) == LIMB_BITS
    for bits in LIMB_BITS:
        # Every limb but the highest is below 2**bits; the highest of 2**30 itself fits, too, and so do the low halves.
        assert 30 - bits * (num_limbs(bits) - 1) <= bits
        assert bits * (num_limbs(bits) - 1) <= 24
    with pytest.raises(ApsError, match=r"262145 pixels.*262144.*smaller images"):
        limb_bits(2**18 + 1)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("bits", LIMB_BITS)
@pytest.mark.parametrize(
    "choice",
    [Choice(criterion, selection, stride)
     for criterion in CRITERIA for selection in ("exact", "float") for stride in (2, 3)],
    ids=lambda choice: choice.suffix,
)  # fmt: skip
def test_scores_and_indices_are_those_of_the_torch_op(choice: Choice, bits: int, runtime: Runtime) -> None:
    if not choice.has_sums and bits != LIMB_BITS[0]:
        pytest.skip("without sums the bits of a limb change nothing")
    images = np.stack(list(known_maps(choice.stride).values()))
    x = torch.from_numpy(images)
    expected = component_scores(x, choice.stride, choice.criterion, choice.selection)
    index = polyphase_index(x, choice.stride, choice.criterion, choice.selection)

    narrow = Choice(choice.criterion, choice.selection, choice.stride, bits)
    kept, chosen, scores = _select(narrow, images, runtime)

    np.testing.assert_array_equal(scores, expected.numpy())
    np.testing.assert_array_equal(chosen, index.numpy())
    np.testing.assert_array_equal(kept, polyphase_take(x, index, choice.stride).numpy())


@pytest.mark.parametrize("criterion", SUMMING)
@pytest.mark.parametrize("bits", LIMB_BITS)
def test_random_maps_get_the_sums_of_64_bits(criterion: str, bits: int) -> None:
    generator = np.random.default_rng(bits)
    for channels, height, width in ((3, 14, 14), (16, 28, 28), (5, 2, 18), (17, 36, 22)):
        images = generator.standard_normal((8, channels, height, width)).astype(np.float32)
        images[::2] *= np.float32(2.0) ** generator.integers(-60, 60, (4, 1, 1, 1)).astype(np.float32)
        wide = run(with_scores(select_model(Choice(criterion)), Choice(criterion)), images)
        for values, reference in zip(_select(Choice(criterion, limb_bits=bits), images), wide, strict=True):
            np.testing.assert_array_equal(values, reference)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("bits", LIMB_BITS)
def test_the_smallest_difference_decides(bits: int, runtime: Runtime) -> None:
    """Sums of 2**30 and a few units, which a float32 could not tell apart."""
    images = np.zeros((12, 1, 8, 8), np.float32)
    generator = np.random.default_rng(11)
    units = np.stack([generator.permutation([0, 0, 1, 2]) for _ in range(12)])
    for image, row in zip(images, units, strict=True):
        for k, unit in enumerate(row):
            component = image[0, k % 2 :: 2, k // 2 :: 2].reshape(-1)
            # At 2**30 the scale is 1: the energies are the numbers that are added up.
            component[:3] = 2.0**30, 2.0**20 - 1 + unit, 1023
            image[0, k % 2 :: 2, k // 2 :: 2] = generator.permutation(component).reshape(4, 4)
    _, index, scores = _select(Choice("l1", limb_bits=bits), images, runtime)
    np.testing.assert_array_equal(scores, 2**30 + 2**20 - 1 + 1023 + units)
    np.testing.assert_array_equal(index, units.argmax(axis=1))
    _, smallest, _ = _select(Choice("l1_min", limb_bits=bits), images, runtime)
    np.testing.assert_array_equal(smallest, units.argmin(axis=1))


@pytest.mark.parametrize("bits", LIMB_BITS)
def test_the_largest_maps_do_not_overflow(bits: int) -> None:
    height, width = LARGEST[bits]
    assert limb_bits(height * width) == bits
    images = np.full((2, 1, 2 * height, 2 * width), 3.0, np.float32)
    images[1] -= np.random.default_rng(bits).random(images[1].shape, np.float32) * np.float32(0.01)
    expected = component_scores(torch.from_numpy(images), 2, "l2", "exact").numpy()
    assert expected[0].tolist() == [2**30 * height * width] * 4
    kept, index, scores = _select(Choice(limb_bits=bits), images)
    np.testing.assert_array_equal(scores, expected)
    np.testing.assert_array_equal(index, expected.argmax(axis=1))
    assert kept.shape == (2, 1, height, width)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_half_precision_maps_are_compared_in_float32(criterion: str, runtime: Runtime) -> None:
    choice = Choice(criterion, limb_bits=15)
    images = np.random.default_rng(1).integers(-600, 600, (8, 6, 8, 10)).astype(np.float16)
    expected = polyphase_index(torch.from_numpy(images), 2, criterion, "exact")
    kept, index = run(select_model(choice, dtype=TensorProto.FLOAT16, opset=OPSET), images, runtime)
    assert kept.dtype == np.float16
    np.testing.assert_array_equal(index, expected.numpy())


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("criterion", SUMMING)
def test_selection_follows_every_shift_bit_for_bit(criterion: str, runtime: Runtime) -> None:
    generator = np.random.default_rng(4)
    for channels, height, width in ((3, 14, 14), (16, 26, 22)):
        choice = Choice(criterion, limb_bits=limb_bits(height * width // 4))
        images = generator.standard_normal((4, channels, height, width)).astype(np.float32)
        kept, index, scores = _select(choice, images, runtime)
        assert len({tuple(row) for row in np.sort(scores, axis=1)}) == len(images)
        for a, b in ((1, 0), (0, 1), (5, 8)):
            moved, chosen, _ = _select(choice, np.roll(images, (a, b), axis=(2, 3)), runtime)
            dy, dx = index % 2 + a, index // 2 + b
            np.testing.assert_array_equal(chosen, dy % 2 + 2 * (dx % 2))
            for n in range(len(images)):
                assert moved[n].tobytes() == np.roll(kept[n], (dy[n] // 2, dx[n] // 2), axis=(1, 2)).tobytes()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (16, 32), (23, 23), (129, 128)])
def test_mean_has_the_bits_of_the_torch_op_and_keeps_them_under_shifts(size: tuple[int, int], runtime: Runtime) -> None:
    generator = np.random.default_rng(3)
    images = generator.standard_normal((7, 5, *size)).astype(np.float32)
    images[1] *= np.float32(2.0**100)
    images[2] *= np.float32(2.0**-120)
    images[3] = 0.0
    images[4, 2, 0, 0], images[4, 3, -1, -1], images[4, 4, 0, -1] = np.nan, np.inf, -np.inf
    images[5] = -7.0
    images[6] = np.abs(images[6])
    model = mean_model(*size, narrow=True, opset=OPSET)
    (mean,) = run(model, images, runtime)
    assert np.isnan(mean[4, 2:5]).all()
    np.testing.assert_array_equal(mean, exact_mean(torch.from_numpy(images)).numpy())
    assert run(model, np.roll(images, (1, 5), axis=(2, 3)), runtime)[0].tobytes() == mean.tobytes()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_mean_is_rounded_once(runtime: Runtime) -> None:
    """Totals of more than 24 bits on both sides of a tie between two float32 numbers."""
    tails = np.array([0, 2**6 - 1, 2**6, 2**6 + 1, 2**7, 3 * 2**6, -(2**6), -(2**6) - 1, -3 * 2**6])
    images = np.zeros((1, 2 * len(tails), 3, 3), np.float32)
    for channel, (tail, sign) in enumerate((tail, sign) for tail in tails for sign in (1, -1)):
        images[0, channel].flat[[0, 4, 8]] = sign * np.array([2**30, 2**12 + 5, tail], np.float32)
    (mean,) = run(mean_model(3, 3, narrow=True, opset=OPSET), images, runtime)
    totals = images.astype(np.int64).sum(axis=(2, 3)).astype(np.float32)
    np.testing.assert_array_equal(mean, totals / np.float32(9))
