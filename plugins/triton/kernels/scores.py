"""Scores of components: the second of the three kernels of a selection, and the choice among them.

For l2 and l1 an energy counts as the whole number round(e * 2**30 / max(m, 2**-90)), m the image's largest energy, and
a component's score is their sum in int64: associative, so it does not depend on where a pixel stands. For linf and max
it is the largest energy, as an int64 in the order of the floats. An image with a NaN or an infinity has scores of 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

from aps_deploy.plugins.triton.kernels.parts import is_finite_maximum, rounded

_QUANTISED_MAX = tl.constexpr(1073741824.0)  # 2**30
_SCALE_FLOOR = tl.constexpr(2.0**-90)  # 2**30 over a smaller maximum would be infinite
_NO_MAXIMUM = tl.constexpr(-(2**40))  # below every float's rank


@triton.jit
def rank(values):
    """Return finite float32 ``values`` as int64 in the same order, -0 and 0 as equals."""
    bits = values.to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return tl.where(values == 0.0, 0, ordered).to(tl.int64)


@triton.jit
def largest_energy(maxima, blocks, BLOCK_MAXIMA: tl.constexpr):
    """Return the largest of an image's block maxima; +infinity where the image holds a NaN or an infinity."""
    lane = tl.arange(0, BLOCK_MAXIMA)
    largest = tl.full((BLOCK_MAXIMA,), -float("inf"), tl.float32)
    for first in range(0, blocks, BLOCK_MAXIMA):
        found = tl.load(maxima + first + lane, mask=first + lane < blocks, other=-float("inf"))
        largest = tl.maximum(largest, found)
    return tl.max(largest, axis=0)


@triton.jit
def score(
    energies,
    maxima,
    height,
    width,
    scores,
    NORM: tl.constexpr,
    STRIDE: tl.constexpr,
    ENERGY_PIXELS: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr,
    BLOCK_COMPONENTS: tl.constexpr,
    BLOCK_MAXIMA: tl.constexpr,
):
    """Write the partial scores (N, PARTS, STRIDE**2) int64 of each component; the grid is (PARTS, N).

    Args:
        energies: (N, H, W) float32.
        maxima: (N, cdiv(H * W, ENERGY_PIXELS)) float32, of the kernel that wrote the energies in such blocks.
        height: H.
        width: W.
        scores: the result. What is left to be done is to add (for linf and max: to take the largest of) PARTS numbers.
        NORM: l2, l1, linf or max.
        STRIDE: s.
        ENERGY_PIXELS: see ``maxima``.
        BLOCK_POSITIONS: positions of a component taken at a time, a power of two.
        BLOCK_COMPONENTS: the power of two from STRIDE**2 on.
        BLOCK_MAXIMA: maxima taken at a time, a power of two.
    """
    image = tl.program_id(1).to(tl.int64)
    pixels = height * width
    blocks = tl.cdiv(pixels, ENERGY_PIXELS)
    largest = largest_energy(maxima + image * blocks, blocks, BLOCK_MAXIMA)
    is_finite = is_finite_maximum(largest)
    scale = tl.div_rn(_QUANTISED_MAX, tl.maximum(tl.where(is_finite, largest, 1.0), _SCALE_FLOOR))

    component = tl.arange(0, BLOCK_COMPONENTS)
    columns = width // STRIDE
    positions = (height // STRIDE) * columns
    if NORM == "l2" or NORM == "l1":
        total = tl.zeros((BLOCK_POSITIONS, BLOCK_COMPONENTS), tl.int64)
    else:
        total = tl.full((BLOCK_POSITIONS, BLOCK_COMPONENTS), _NO_MAXIMUM, tl.int64)
    for first in range(tl.program_id(0) * BLOCK_POSITIONS, positions, tl.num_programs(0) * BLOCK_POSITIONS):
        position = first + tl.arange(0, BLOCK_POSITIONS)
        row = (position // columns * STRIDE)[:, None] + (component % STRIDE)[None, :]
        column = (position % columns * STRIDE)[:, None] + (component // STRIDE)[None, :]
        inside = (position < positions)[:, None] & (component < STRIDE * STRIDE)[None, :]
        found = tl.load(energies + image * pixels + row * width + column, mask=inside, other=0.0)
        # A NaN is never made an integer: that is undefined.
        found = tl.where(is_finite, found, 0.0)
        if NORM == "l2" or NORM == "l1":
            total += rounded(found * scale).to(tl.int64)
        else:
            total = tl.maximum(total, tl.where(inside, rank(found), _NO_MAXIMUM))
    partial = tl.sum(total, axis=0) if NORM == "l2" or NORM == "l1" else tl.max(total, axis=0)
    at = (image * tl.num_programs(0) + tl.program_id(0)) * (STRIDE * STRIDE) + component
    tl.store(scores + at, partial, mask=component < STRIDE * STRIDE)


@triton.jit
def score_of(scores, component, NORM: tl.constexpr, STRIDE: tl.constexpr, PARTS: tl.constexpr):
    """Return the score of one component from the partial scores (PARTS, STRIDE**2) of an image."""
    partial = tl.load(scores + tl.arange(0, PARTS) * (STRIDE * STRIDE) + component)
    return tl.sum(partial, axis=0) if NORM == "l2" or NORM == "l1" else tl.max(partial, axis=0)


@triton.jit
def best_component(scores, NORM: tl.constexpr, KEEPS_SMALLEST: tl.constexpr, STRIDE: tl.constexpr, PARTS: tl.constexpr):
    """Return the component that scores best by the partial scores (PARTS, STRIDE**2) of an image; the lowest of equals.

    By strict comparisons, as in the exported files: the order in which an argmax meets equals is its own affair.
    """
    best = score_of(scores, 0, NORM, STRIDE, PARTS)
    chosen = 0
    for component in tl.static_range(1, STRIDE * STRIDE):
        candidate = score_of(scores, component, NORM, STRIDE, PARTS)
        is_better = candidate < best if KEEPS_SMALLEST else candidate > best
        chosen = tl.where(is_better, component, chosen)
        best = tl.where(is_better, candidate, best)
    return chosen


@triton.jit
def decide(
    scores,
    index,
    NORM: tl.constexpr,
    KEEPS_SMALLEST: tl.constexpr,
    STRIDE: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Write each image's component, index (N,) int64, from `score`'s (N, PARTS, STRIDE**2); the grid is (N,)."""
    image = tl.program_id(0).to(tl.int64)
    of_image = scores + image * (PARTS * STRIDE * STRIDE)
    tl.store(index + image, best_component(of_image, NORM, KEEPS_SMALLEST, STRIDE, PARTS).to(tl.int64))
