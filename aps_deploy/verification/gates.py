"""What a file must meet to pass: every gate with its default for each precision, and the reason for it.

A gate compares one measured number with one limit. ``None`` as a limit means that the number is reported and passes
whatever it is. Defaults can be overridden by name; the certificate records every override.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from aps_deploy.errors import InputError, near_matches

Comparison = Literal["<=", ">="]
Status = Literal["passed", "failed", "reported", "not_applicable"]
PRECISIONS = ("fp32", "fp16", "bf16", "int8")

EQUIVARIANT_RUNTIMES = {
    # Their convolutions, reductions and products round every pixel alike wherever it stands: measured over 19 shapes
    # down to odd ones. A CUDA provider picks kernels by shape and promises nothing of the kind.
    ("torch", "cpu"),
    ("onnxruntime", "cpu"),
    # NumPy's products and sums, tried operator by operator as well; the one CPU runtime that has bf16.
    ("onnx-reference", "cpu"),
}
"""(runtime, device) pairs on which logits must be bit-identical under shifts, at every precision."""


@dataclasses.dataclass(frozen=True)
class GateSpec:
    """One gate of the table.

    Attributes:
        comparison: ``<=`` where the limit is the largest accepted value, ``>=`` where it is the smallest.
        limits: limit per precision; None is reported only.
        unit: of measured value and limit.
        reason: why the gate exists and why the limit is what it is.
        only_equivariant: the limit holds on `EQUIVARIANT_RUNTIMES`; elsewhere `elsewhere` does.
        elsewhere: limit per precision on other runtimes.
        only_promised: the limit holds where file or reference is a network of this project, whose arithmetic is made
            for it; otherwise `elsewhere` does.
        parametrises: gates whose measured numbers depend on this limit. Such a gate has no number of its own, and a
            saved certificate cannot be judged by another value of it.
    """

    comparison: Comparison
    limits: Mapping[str, float | None]
    unit: str
    reason: str
    only_equivariant: bool = False
    elsewhere: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    only_promised: bool = False
    parametrises: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Gate:
    """A gate as it applies to one file in one runtime.

    Attributes:
        name: key of the table.
        comparison: see `GateSpec`.
        limit: None where the number is only reported.
        unit: of measured value and limit.
        reason: why the gate exists.
        overridden: whether the limit is the caller's and not the table's.
    """

    name: str
    comparison: Comparison
    limit: float | None
    unit: str
    reason: str
    overridden: bool = False

    def accepts(self, measured: float) -> bool:
        """Return whether the measured number is within the limit; NaN never is, without a limit anything is."""
        return judge(measured, self.comparison, self.limit) != "failed"


def judge(measured: float | None, comparison: str, limit: float | None) -> Status:
    """Return the verdict on a measured number; what is not a number (None, NaN) fails every limit."""
    if limit is None:
        return "reported"
    if measured is None or math.isnan(measured):
        return "failed"
    return "passed" if (measured <= limit if comparison == "<=" else measured >= limit) else "failed"


def _same(limit: float | None) -> dict[str, float | None]:
    return dict.fromkeys(PRECISIONS, limit)


# Elementwise |file - reference| <= atol + rtol |reference|; int8 is judged by its direction and accuracy instead.
_ATOL: dict[str, float | None] = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": None}
_RTOL: dict[str, float | None] = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2, "int8": None}
# What counts as equal between two batches; int8 sums are exact, but one flipped level moves a logit.
_BATCH_ATOL = {**_ATOL, "int8": 1e-2}
_BATCH_RTOL = {**_RTOL, "int8": 1e-2}
_PARITY = ("parity_excess", "clear_top1_changes")
_BATCH = ("repeat_difference", "identical_rows", "batch_size_difference", "batch_slot_difference")

GATES: dict[str, GateSpec] = {
    "missing_outputs": GateSpec(
        "<=", _same(0), "outputs", "a file that lacks an output it declares cannot be audited"
    ),
    "declared_differently": GateSpec(
        "<=", _same(0), "options", "the file must be what the reference is, not what it says of itself"
    ),
    "other_precision_layers": GateSpec(
        "<=", _same(0), "layers",
        "every layer must compute in the precision that the file declares or the caller asks for; a converter that "
        "falls back says nothing",
    ),
    "unaudited_layers": GateSpec(
        "<=", _same(0), "layers",
        "where the reference selects, the file must report every choice and name its values, or nobody can tell",
    ),
    "changed_bytes": GateSpec(
        "<=", _same(0), "files", "the file's hash must be the one its export wrote beside it"
    ),
    "non_finite_rows": GateSpec(
        "<=", _same(0), "images", "a NaN or an infinity in the logits is no answer, and hides every other difference"
    ),
    "static_findings": GateSpec(
        "<=", _same(0), "nodes",
        "low precision, unordered ties, float pooling and other padding fail on images that were not tried",
    ),
    "index_range": GateSpec("<=", _same(0), "selections", "an index beyond the components selects nothing"),
    "unexplained_selections": GateSpec(
        "<=", _same(0), "selections", "another choice is a fault unless the margin is below the file's error"
    ),
    "at_risk_selections": GateSpec(
        "<=", _same(None), "selections",
        "choices that agree by less than the file's error: another kernel, driver or machine may choose otherwise",
    ),
    "margin_cap": GateSpec(
        "<=", {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}, "relative margin",
        "largest margin that the measured score error may explain, so that a ruined file does not explain itself; most "
        "margins of bf16 and int8 files are below it, so there the measured error alone decides",
        parametrises=("unexplained_selections",),
    ),
    "parity_atol": GateSpec(
        "<=", _ATOL, "logit", "absolute part of the elementwise tolerance", parametrises=_PARITY
    ),
    "parity_rtol": GateSpec(
        "<=", _RTOL, "relative", "relative part of the elementwise tolerance", parametrises=_PARITY
    ),
    "parity_images": GateSpec(
        ">=", {"fp32": 99.0, "fp16": 95.0, "bf16": 80.0, "int8": 80.0}, "% of images",
        "saved answers and other files cannot be made to choose what the file chooses, so images whose choices differ "
        "are left out of the comparison; near-ties cost a few in a hundred, of int8 up to one in ten",
    ),
    "parity_excess": GateSpec(
        "<=", {**_same(1.0), "int8": None}, "tolerances",
        "largest |file - reference| in units of atol + rtol |reference|, for equal choices of components",
    ),
    "parity_mean_abs": GateSpec(
        "<=", {"fp32": 1e-4, "fp16": 1e-3, "bf16": 1e-2, "int8": None}, "logit",
        "a small bias on every logit passes any elementwise tolerance; the limit is made for logits of order one",
    ),
    "parity_cosine": GateSpec(
        ">=", {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.995, "int8": 0.99}, "cosine",
        "smallest over the images: one image that points elsewhere is not averaged away",
    ),
    "clear_top1_changes": GateSpec(
        "<=", {**_same(0), "int8": None}, "images",
        "a class may change only where the reference's two best logits are within the tolerance",
    ),
    "accuracy_drop": GateSpec(
        "<=", _same(1.0), "points", "accuracy lost against the reference; one point is what int8 may cost"
    ),
    "accuracy_floor": GateSpec(
        ">=", _same(None), "% of images",
        "accuracy of the file itself on labelled images: what the task needs is the caller's to say",
    ),
    "non_finite_pairs": GateSpec(
        "<=", _same(0), "pairs", "a NaN or an infinity under any shift is no answer; such pairs count as changed too"
    ),
    "top1_consistency": GateSpec(
        ">=", _same(100.0), "% of pairs", "the promise: the answer does not change when the image moves"
    ),
    "identical_shifts": GateSpec(
        ">=", _same(100.0), "% of shifts",
        "exact selection and pooling make logits bit-identical on runtimes whose kernels treat all positions alike",
        only_equivariant=True,
        elsewhere=_same(None),
        only_promised=True,
    ),
    "authors_consistency": GateSpec(
        ">=", _same(None), "%",
        "the paper's protocol, two random shifts per batch: for comparing numbers; too noisy to gate",
    ),
    "crop_consistency": GateSpec(
        ">=", _same(None), "% of windows",
        "a window that moves over a larger picture loses pixels and gains others, so nothing is promised",
    ),
    "batch_atol": GateSpec(
        "<=", _BATCH_ATOL, "logit", "absolute part of the tolerance between batches", parametrises=_BATCH
    ),
    "batch_rtol": GateSpec(
        "<=", _BATCH_RTOL, "relative", "relative part of the tolerance between batches", parametrises=_BATCH
    ),
    "repeat_difference": GateSpec(
        "<=", _same(0.0), "tolerances", "the same batch twice gives the same bits, or no comparison means anything",
        only_equivariant=True,
        elsewhere=_same(1.0),
    ),
    "identical_rows": GateSpec(
        "<=", _same(0.0), "tolerances", "equal images in one batch get equal logits",
        only_equivariant=True,
        elsewhere=_same(1.0),
    ),
    "batch_size_difference": GateSpec(
        "<=", _same(1.0), "tolerances", "an image alone and in a batch gets the same answer"
    ),
    "batch_slot_difference": GateSpec(
        "<=", _same(1.0), "tolerances", "first and last slot of a batch give the same answer"
    ),
}  # fmt: skip
"""The table of gates, by name."""


def resolve_gates(
    precision: str | None,
    runtime: str,
    device: str,
    overrides: Mapping[str, float | None] | None = None,
    *,
    is_promised: bool = True,
) -> dict[str, Gate]:
    """Return every gate as it applies to a file of this precision in this runtime.

    Args:
        precision: one of `PRECISIONS`; None (a file of another tool) is taken as fp32.
        runtime: name of the session's runtime.
        device: ``cpu`` or ``cuda``.
        overrides: limits by gate name; None as a limit relaxes the gate to a report.
        is_promised: whether file or reference is a network of this project; another tool's file promises no bits.

    Raises:
        InputError: an override's name is not in the table or its value is no number; an unknown precision.
    """
    precision = precision or "fp32"
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} has no gates; known are {', '.join(PRECISIONS)}.")
    chosen = checked_overrides(overrides or {})
    gates = {}
    for name, spec in GATES.items():
        holds = not spec.only_equivariant or (runtime, device) in EQUIVARIANT_RUNTIMES
        holds = holds and (is_promised or not spec.only_promised)
        limit = (spec.limits if holds else spec.elsewhere)[precision]
        if name in chosen:
            gates[name] = Gate(name, spec.comparison, chosen[name], spec.unit, spec.reason, overridden=True)
        else:
            gates[name] = Gate(name, spec.comparison, limit, spec.unit, spec.reason)
    return gates


def checked_overrides(overrides: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the overrides, every one of which is a limit for a gate of the table.

    Raises:
        InputError: a name is not in the table, or its value is no finite number of at least 0.
    """
    for name, value in overrides.items():
        if name not in GATES:
            raise InputError(f"there is no gate {name!r}{near_matches(name, GATES)}; known are {', '.join(GATES)}.")
        if value is not None and (isinstance(value, bool) or not 0 <= value < math.inf):
            raise InputError(
                f"gate {name}={value} is not accepted; give a number of at least 0, or off to only report it."
            )
    return dict(overrides)


def parse_gates(texts: list[str]) -> dict[str, float | None]:
    """Return the overrides in texts such as ``top1_consistency=95`` and ``identical_shifts=off``.

    Raises:
        InputError: a text has no ``=``, or its value is neither a number nor ``off``.
    """
    overrides: dict[str, float | None] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        try:
            overrides[name.strip()] = None if value.strip().lower() in ("off", "none") else float(value)
        except ValueError:
            separator = ""
        if not separator:
            raise InputError(f"gate {text!r} cannot be read; write NAME=NUMBER or NAME=off, for example {_EXAMPLE}.")
    return overrides


_EXAMPLE = "top1_consistency=95"
