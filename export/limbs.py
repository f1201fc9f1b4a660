"""Exact sums in 32-bit whole numbers, for runtimes that have no wider ones (TensorRT before 10).

The bodies in `bodies` round every pixel to a whole number of at most 2**30 and add those up in int64. Here each number
is cut into limbs of a few bits, the limbs are added up separately, and carries bring the sums into the one form in
which a number can be written: the same total to the last bit, so the same choice and the same mean as in int64.

The limbs are so small that no sum of them exceeds 2**24, though an int32 holds more. A float32 holds all whole numbers
up to there, so the sums stay exact where a runtime takes int32 and adds in float32. OpenVINO 2026.4 does on a CPU (a
sum of 4,096 numbers below 2**17 was off by 15), and the operator table of TensorRT 8.5's parser names FP32 and FP16
alone for reductions. It also makes the mean exact: two halves that a float32 holds, joined by one rounding, as the
cast of an int64 rounds once.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from aps_deploy.errors import ApsError
from aps_deploy.export.body_writer import BodyWriter
from aps_deploy.export.op_names import LIMB_BITS, Choice

QUANTISED_BITS = 30
"""A pixel's number is at most 2 to the power of this, so its highest limb may be 2**(30 - bits of the others)."""
_EXACT_IN_FLOAT32 = 2**24


def limb_bits(num_terms: int) -> int:
    """Return the bits of a limb with which sums of ``num_terms`` numbers stay within 2**24.

    Raises:
        ApsError: no limb that is written is small enough.
    """
    for bits in LIMB_BITS:
        if num_terms << bits <= _EXACT_IN_FLOAT32:
            return bits
    most = _EXACT_IN_FLOAT32 >> LIMB_BITS[-1]
    raise ApsError(
        f"a sum of {num_terms} pixels is beyond what 32-bit sums are written for, which is {most}; export for smaller "
        "images, or leave --target out."
    )


def num_limbs(bits: int) -> int:
    """Return how many limbs of ``bits`` bits make up one number."""
    return -(-QUANTISED_BITS // bits)


def write_limb_sums(writer: BodyWriter, rounded: str, bits: int, *, keepdims: int) -> str:
    """Write the sums over a map of the limbs of ``rounded``.

    Args:
        writer: Of the body.
        rounded: (N, C, H, W) float32, whole numbers of magnitude up to 2**30.
        bits: Bits of a limb.
        keepdims: Whether the sums keep the two last axes.

    Returns:
        The name of the sums (N, limbs * C) int32, the highest limbs of all channels first.
    """
    rest = writer.op("Cast", [rounded], "quantised", to=onnx.TensorProto.INT32)
    limbs = []
    for position in range(num_limbs(bits) - 1, 0, -1):
        unit = writer.whole32(1 << (bits * position))
        limbs.append(writer.op("Div", [rest, unit], f"limb_{position}"))
        # Not Mod, which rounds down where Div cuts off: of negative numbers the two would not belong together.
        counted = writer.op("Mul", [limbs[-1], unit], f"above_limb_{position}")
        rest = writer.op("Sub", [rest, counted], f"below_limb_{position}")
    stack = writer.op("Concat", [*limbs, rest], "limbs", axis=1)
    return writer.reduce("ReduceSum", stack, (2, 3), "limb_sums", keepdims=keepdims)


def write_normal_form(writer: BodyWriter, sums: str, bits: int) -> tuple[str, str]:
    """Write the totals that ``sums`` (N, limbs * K) stand for as ``high * 2**(bits * (limbs - 1)) + low``.

    No magnitude exceeds 2**24. Of numbers that are not negative ``low`` is less than the unit of ``high``, so equal
    totals have equal halves and larger ones a larger ``high``, or the same and a larger ``low``.

    Returns:
        The names of high and low, (N, K) int32 each, with the further axes that ``sums`` has.
    """
    number = num_limbs(bits)
    limbs = writer.split(sums, [f"sum_of_limb_{position}" for position in range(number - 1, -1, -1)], axis=1)
    base = writer.whole32(1 << bits)
    low = ""
    for position in range(number - 1):
        lowest = limbs.pop()
        carry = writer.op("Div", [lowest, base], f"carry_{position}")
        carried = writer.op("Mul", [carry, base], f"carried_{position}")
        remainder = writer.op("Sub", [lowest, carried], f"digit_{position}")
        limbs[-1] = writer.op("Add", [limbs[-1], carry], f"sum_with_carry_{position + 1}")
        if position:
            placed = writer.op("Mul", [remainder, writer.whole32(1 << (bits * position))], f"placed_{position}")
            remainder = writer.op("Add", [placed, low], f"lower_part_{position}")
        low = remainder
    return limbs[0], low


def write_limb_chain(writer: BodyWriter, scores: str, choice: Choice) -> None:
    """Write the index ``I`` (N,) int32 of the best of the totals in ``scores`` (N, limbs * s*s), the lowest of ties."""
    assert choice.limb_bits is not None
    number = choice.stride**2
    comparison = "Less" if choice.criterion.endswith("_min") else "Greater"
    halves = write_normal_form(writer, scores, choice.limb_bits)
    highs, lows = (
        writer.split(half, [f"{name}_{k}" for k in range(number)], axis=1)
        for name, half in zip(("high", "low"), halves, strict=True)
    )
    best, index = (highs[0], lows[0]), writer.index(0)
    for k, candidate in enumerate(zip(highs[1:], lows[1:], strict=True), start=1):
        better = _write_better(writer, comparison, candidate, best, k)
        index = writer.op("Where", [better, writer.index(k), index], f"index_{k}")
        if k < number - 1:
            kept = zip(("high", "low"), candidate, best, strict=True)
            best_high, best_low = [writer.op("Where", [better, *pair], f"best_{name}_{k}") for name, *pair in kept]
            best = best_high, best_low
    writer.op("Squeeze", [index, writer.integers(1)], "I")


def _write_better(writer: BodyWriter, comparison: str, candidate: Sequence[str], best: Sequence[str], k: int) -> str:
    """Write whether a candidate (high, low) strictly beats the best so far."""
    by_high = writer.op(comparison, [candidate[0], best[0]], f"better_high_{k}")
    level = writer.op("Equal", [candidate[0], best[0]], f"level_{k}")
    by_low = writer.op(comparison, [candidate[1], best[1]], f"better_low_{k}")
    return writer.op("Or", [by_high, writer.op("And", [level, by_low], f"better_level_{k}")], f"better_{k}")


def write_limb_total(writer: BodyWriter, rounded: str, bits: int) -> str:
    """Write the sum of ``rounded`` (N, C, H, W) over each map, as float32 (N, C, 1, 1), rounded once."""
    high, low = write_normal_form(writer, write_limb_sums(writer, rounded, bits, keepdims=1), bits)
    high32 = writer.op("Cast", [high], "high32", to=onnx.TensorProto.FLOAT)
    low32 = writer.op("Cast", [low], "low32", to=onnx.TensorProto.FLOAT)
    placed = writer.op("Mul", [high32, writer.real(2.0 ** (bits * (num_limbs(bits) - 1)))], "placed_high")
    return writer.op("Add", [placed, low32], "total32")
