"""The margins of one selecting layer as an SVG histogram, with the file's measured error marked."""

from __future__ import annotations

import math
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.verification.report.markup import Markup, element
from aps_deploy.verification.report.words import counted, scientific

_WIDTH, _HEIGHT = 680, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 34, 40
_MOST_DECADES = 400
_LABEL_DECADES = 2.0  # room left of the leftmost mark for its label


def margin_histogram(layer: dict[str, Any]) -> Markup:
    """Return the histogram of one entry of ``details.selection.layers``."""
    margins = layer["margins"]
    start, step, counts = margins["log10_from"], margins["log10_step"], margins["counts"]
    if not -_MOST_DECADES < start < start + step * len(counts) + 1 < _MOST_DECADES:
        raise InputError(f"the margins of {layer['layer']} are no numbers of float64; verify the file again.")
    marks = [
        (name, math.log10(layer[key]), kind)
        for name, key, kind in (("measured error", "measured_error", "error"), ("tolerance", "tolerance", "tolerance"))
        if layer[key]
    ]
    end = start + step * len(counts)
    low = math.floor(min([start, *(place - _LABEL_DECADES for _, place, _ in marks)]))
    high = max(math.ceil(end), low + 1)
    top = max(counts, default=0) or 1

    def across(decade: float) -> float:
        return float(_LEFT + (decade - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT))

    def upward(count: float) -> float:
        return float(_HEIGHT - _BOTTOM - count / top * (_HEIGHT - _TOP - _BOTTOM))

    tolerance = math.log10(layer["tolerance"]) if layer["tolerance"] else -math.inf
    bars = [
        element(
            "rect", x=f"{across(left) + 0.5:.1f}", y=f"{upward(count):.1f}",
            width=f"{across(left + step) - across(left) - 1:.1f}", height=f"{_HEIGHT - _BOTTOM - upward(count):.1f}",
            class_="bar at-risk" if left < tolerance else "bar",
        )
        for left, count in ((start + step * index, count) for index, count in enumerate(counts))
        if count
    ]  # fmt: skip
    baseline = element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=_HEIGHT - _BOTTOM, y2=_HEIGHT - _BOTTOM, class_="axis")
    labels = [_tick(decade, across(decade), high - low) for decade in range(low, high + 1)]
    title = element(
        "text", "relative margin between the two best components (logarithmic)",
        x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 4, text_anchor="middle",
    )  # fmt: skip
    scale = [
        element("text", f"{top:,}", x=_LEFT - 6, y=f"{upward(top) + 4:.1f}", text_anchor="end"),
        element("text", "0", x=_LEFT - 6, y=_HEIGHT - _BOTTOM, text_anchor="end"),
        element("text", "selections", transform=f"translate(12 {(_HEIGHT - _BOTTOM + _TOP) / 2}) rotate(-90)",
                text_anchor="middle"),
    ]  # fmt: skip
    lines = [_mark(name, layer_value(layer, kind), across(place), kind) for name, place, kind in marks]
    return element(
        "svg", *bars, baseline, *labels, title, *scale, *lines,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}", class_="histogram", role="img", aria_label=describe(layer),
    )  # fmt: skip


def layer_value(layer: dict[str, Any], kind: str) -> float:
    """Return the number behind a mark of that kind, ``error`` or ``tolerance``."""
    return float(layer["measured_error" if kind == "error" else "tolerance"])


def describe(layer: dict[str, Any]) -> str:
    """Return the histogram in a sentence."""
    margins = layer["margins"]
    total = sum(margins["counts"])
    if not total:
        return f"Layer {layer['layer']}: no margin, every selection ties."
    smallest = "" if layer["smallest_margin"] is None else f", the smallest {scientific(layer['smallest_margin'], 2)}"
    if layer["measured_error"] is None:
        error = "the file's error could not be measured"
    elif layer["measured_error"] == 0:
        error = "the file's scores equal the reference's"
    else:
        error = (
            f"the file's scores are off by at most {scientific(layer['measured_error'], 2)}, so margins below "
            f"{scientific(layer['tolerance'], 2)} could fall the other way"
        )
    risk = f"{counted(layer['at_risk'], 'agreeing selection is', 'agreeing selections are')} that close"
    return f"Layer {layer['layer']}: {counted(total, 'margin')}{smallest}; {error}; {risk}."


def _tick(decade: int, x: float, decades: int) -> Markup | str:
    if decades > 12 and decade % 2:
        return ""
    return element("text", "1" if decade == 0 else f"1e{decade}", x=f"{x:.1f}", y=_HEIGHT - _BOTTOM + 15,
                   text_anchor="middle")  # fmt: skip


def _mark(name: str, value: float, x: float, kind: str) -> Markup:
    # Error and tolerance lie close together: their labels go to both sides.
    anchor, shift = ("end", -5) if kind == "error" else ("start", 5)
    line = element("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=_TOP - 18, y2=_HEIGHT - _BOTTOM, class_=f"mark {kind}")
    label = element("text", f"{name} {scientific(value, 2)}", x=f"{x + shift:.1f}", y=_TOP - 10, text_anchor=anchor)
    return element("g", line, label)
