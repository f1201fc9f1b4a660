"""Scores of a selection by one reduction of the map, in standard ONNX operators.

The other bodies need three reductions, each of which waits for the one before: energies over channels, their maximum,
which gives the scale, and the integer sums. Here the scale is fixed, so that every value becomes integers by itself and
all of them are added at once: |x|**p is written as three digits of 31 bits, and the digits are added in int64. The sums
are those of the exact numbers, wherever each pixel stands and in whatever order they are added; `PolyphaseIndex` of
PyTorch rounds each energy to float32, so indices agree but where two components differ by less than that.

* The lowest digit counts in units of 2**-48, the square of the smallest float16: of a float16 map nothing is lost.
  What is smaller is cut off, and |x|**p from 2**33 on counts as 2**33; squares of float16 end at 2**32.
* x*x - 2**k * floor(x*x / 2**k) is exact in float32: a power of two changes no digit, and the difference has fewer.
* NaN and infinity (also of an x*x beyond float32) add 2**41 to the highest digits, more than 2**22 numbers of one
  component can. Such a map gets equal scores, and so index 0, as in the other bodies.
* Channels are added in groups, and the groups by a chain of additions, which costs no kernel: a long sum TensorRT for
  RTX spreads over blocks of threads that share a counter, and a kernel of its own clears that. Counted in ResNet-18 at
  224 pixels in batches of 8 and of 1, beyond the strided network with the same blur: 7 and 10 kernels with one group,
  3 and 7 with four, 3 and 6 with eight, and with 16 the chain itself is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from onnx import TensorProto

from aps_deploy.export.body_writer import BodyWriter

LOWEST_EXPONENT = -48
DIGIT_BITS = 31
NUM_DIGITS = 3
MOST_GROUPS = 8
LARGEST = float(np.nextafter(np.float32(2.0**33), np.float32(0.0)))

_BASE = 2**DIGIT_BITS
_NOT_FINITE = 2**41
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def groups_for(channels: Iterable[int]) -> int:
    """Return into how many groups a body may cut the channels of every map it is for, 1 where one has 0 (unknown)."""
    channels = list(channels)
    return math.gcd(MOST_GROUPS, *channels) if all(channels) else 1


def write_one_pass_scores(writer: BodyWriter, values: str, *, power: int, stride: int, groups: int) -> str:
    """Write the scores of every component; return the name of them, (N, s*s) int64, numbered dy*s + dx.

    Args:
        writer: of the body.
        values: name of the map (N, C, H, W) float32.
        power: 2 compares sums of squares, 1 of magnitudes.
        stride: s.
        groups: into which channels are cut; a divisor of C.
    """
    components = writer.op("SpaceToDepth", [values], "components", blocksize=stride)
    # (N, 1, s*s, groups, C*H*W / (s*s*groups)): the second axis is the digits'.
    lines = writer.op("Reshape", [components, writer.integers(0, 1, stride**2, groups, -1)], "lines")
    terms = writer.op("Mul", [lines, lines], "terms") if power == 2 else writer.op("Abs", [lines], "terms")
    parts = writer.op("ReduceSum", [_digits(writer, terms), writer.integers(4)], "digit_sums", keepdims=0)
    return _one_number(writer, _sum_of_groups(writer, parts, groups), stride**2)


def _sum_of_groups(writer: BodyWriter, parts: str, groups: int) -> str:
    """Return the sums (N, 3, s*s) of ``parts`` (N, 3, s*s, groups)."""
    each = [
        writer.op("Gather", [parts, writer.integers(group, scalar=True)], f"sums_of_group_{group}", axis=3)
        for group in range(groups)
    ]
    total = each[0]
    for group, part in enumerate(each[1:], start=1):
        total = writer.op("Add", [total, part], f"sums_to_group_{group}")
    return total


def _digits(writer: BodyWriter, terms: str) -> str:
    """Return the digits (N, 3, s*s, G, M) int64 of ``terms`` (N, 1, s*s, G, M), the lowest first."""
    is_number = writer.op("LessOrEqual", [terms, writer.real(_FLOAT32_MAX)], "is_number")
    in_range = writer.op("LessOrEqual", [terms, writer.real(LARGEST)], "in_range")
    bounded = writer.op("Where", [in_range, terms, writer.real(LARGEST)], "bounded_terms")
    exponents = LOWEST_EXPONENT + DIGIT_BITS * np.arange(NUM_DIGITS)
    per_unit = np.exp2(-exponents).astype(np.float32).reshape(NUM_DIGITS, 1, 1, 1)
    units = writer.op("Floor", [writer.op("Mul", [bounded, writer.array(per_unit)], "in_units")], "units")
    in_next = writer.op("Mul", [bounded, writer.array(per_unit / np.float32(_BASE))], "in_next_units")
    above = writer.op("Mul", [writer.op("Floor", [in_next], "next_units"), writer.real(_BASE)], "above")
    digits = writer.op("Sub", [units, above], "digits")
    # By way of int32, which holds a digit: GPUs turn floats into int64 many times more slowly.
    narrow = writer.op("Cast", [digits], "narrow_digits", to=TensorProto.INT32)
    wide = writer.op("Cast", [narrow], "wide_digits", to=TensorProto.INT64)
    mark = np.asarray([0, 0, _NOT_FINITE]).reshape(NUM_DIGITS, 1, 1, 1)
    return writer.op("Where", [is_number, wide, writer.array(mark)], "marked_digits")


def _one_number(writer: BodyWriter, sums: str, number: int) -> str:
    """Return int64 scores (N, s*s) for digit sums (N, 3, s*s), on the finest of three scales that holds them all."""
    low, middle, high = (
        writer.op("Gather", [sums, writer.integers(digit, scalar=True)], f"digit_sum_{digit}", axis=1)
        for digit in range(NUM_DIGITS)
    )
    base = writer.integers(_BASE)
    middle = writer.op("Add", [middle, writer.op("Div", [low, base], "carry_0")], "carried_1")
    high = writer.op("Add", [high, writer.op("Div", [middle, base], "carry_1")], "carried_2")
    low, middle = writer.op("Mod", [low, base], "digit_0"), writer.op("Mod", [middle, base], "digit_1")
    # Not ReduceMax, which would be a kernel of its own.
    each = [writer.op("Gather", [high, writer.integers(k)], f"high_{k}", axis=1) for k in range(number)]
    highest = writer.op("Max", each, "highest")
    fine = writer.op("Add", [writer.op("Mul", [middle, base], "middle_in_fine"), low], "fine")
    medium = writer.op("Add", [writer.op("Mul", [high, base], "high_in_medium"), middle], "medium")
    fits_medium = writer.op("Less", [highest, base], "fits_medium")
    fits_fine = writer.op("Less", [highest, writer.integers(1)], "fits_fine")
    not_fine = writer.op("Where", [fits_medium, medium, high], "medium_or_coarse")
    scaled = writer.op("Where", [fits_fine, fine, not_fine], "scaled")
    is_finite = writer.op("Less", [highest, writer.integers(_NOT_FINITE)], "finite")
    return writer.op("Where", [is_finite, scaled, writer.integers(0)], "component_sums")
