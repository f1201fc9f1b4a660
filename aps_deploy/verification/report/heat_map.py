"""Shift heat maps as SVG. Colour is never alone: small maps carry their numbers, all of them a caption and a legend."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from aps_deploy.verification.pictures import Pixels, png_of
from aps_deploy.verification.report.markup import Markup, element, joined
from aps_deploy.verification.report.shift_grid import Map
from aps_deploy.verification.report.words import magnitude, percent

_SIDE = 300  # of the map in SVG units
_LEFT, _TOP, _RIGHT, _BOTTOM = 46, 8, 8, 42
_MOST_NUMBERS = 8  # rows and columns up to which every cell carries its number
_MOST_TICKS = 9

# Light to dark, so that a grey print keeps the order; the ramp of ColorBrewer's OrRd.
_RAMP = np.array([(253, 212, 158), (252, 141, 89), (215, 48, 31), (110, 0, 0)], dtype=np.float64)
_ZERO = (223, 240, 233)
_NOT_TRIED = ((240, 240, 242), (205, 208, 212))
_ZERO_CSS, _RAMP_CSS = "rgb(223,240,233)", ("rgb(253,212,158)", "rgb(252,141,89)", "rgb(215,48,31)", "rgb(110,0,0)")


@dataclasses.dataclass(frozen=True)
class Scale:
    """How numbers above 0 become a position on the ramp.

    Attributes:
        low: number at the ramp's light end.
        high: number at its dark end.
        position: number above 0 to 0..1.
        label: number to text for the legend.
        short: number to a text that fits into a cell.
        starts: text at the ramp's light end.
    """

    low: float
    high: float
    position: Callable[[Map], Map]
    label: Callable[[float], str]
    short: Callable[[float], str]
    starts: str


def share_scale(*maps: Map) -> Scale:
    """Return a linear scale for shares of 0 to 1, common to the maps."""
    top = max((float(np.nanmax(values)) for values in maps), default=0.0) or 1.0
    return Scale(0.0, top, lambda values: values / top, lambda value: percent(value, 1.0), _short_share, "above 0")


def magnitude_scale(*maps: Map) -> Scale:
    """Return a logarithmic scale of whole decades for magnitudes, common to the maps."""
    positive = np.concatenate([values[np.isfinite(values) & (values > 0)].ravel() for values in maps] or [np.ones(1)])
    low = math.floor(math.log10(positive.min())) if positive.size else -1
    high = math.ceil(math.log10(positive.max())) if positive.size else 0
    high = max(high, low + 1)

    def position(values: Map) -> Map:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.clip((np.log10(values) - low) / (high - low), 0, 1)

    return Scale(10.0**low, 10.0**high, position, magnitude, magnitude, magnitude(10.0**low))


def heat_map(values: Map, downward: Sequence[int], rightward: Sequence[int], scale: Scale, description: str) -> Markup:
    """Return one heat map.

    Args:
        values: (rows, columns) numbers from 0, NaN where a shift was not tried.
        downward: dy of each row, in pixels.
        rightward: dx of each column, in pixels.
        scale: from `share_scale` or `magnitude_scale`.
        description: what the map shows, for people who do not see it.
    """
    rows, columns = values.shape
    cell_height, cell_width = _SIDE / rows, _SIDE / columns
    picture = element(
        "image", x=_LEFT, y=_TOP, width=_SIDE, height=_SIDE, preserveAspectRatio="none",
        href=f"data:image/png;base64,{png_of(_pixels(values, scale))}",
    )  # fmt: skip
    frame = element("rect", x=_LEFT, y=_TOP, width=_SIDE, height=_SIDE, class_="frame")
    row, column = downward.index(0), rightward.index(0)
    unshifted = element(
        "rect", x=_LEFT + column * cell_width, y=_TOP + row * cell_height, width=cell_width, height=cell_height,
        class_="unshifted",
    )  # fmt: skip
    parts = [picture, frame, *_numbers(values, scale, (row, column)), unshifted, *_axes(downward, rightward)]
    size = f"0 0 {_LEFT + _SIDE + _RIGHT} {_TOP + _SIDE + _BOTTOM}"
    return element("svg", *parts, viewBox=size, class_="map", role="img", aria_label=description)


def legend(scale: Scale, *, not_tried: bool) -> Markup:
    """Return the legend of the maps of one scale."""
    stops = [
        element("stop", offset=f"{index / (len(_RAMP_CSS) - 1):.0%}", stop_color=colour)
        for index, colour in enumerate(_RAMP_CSS)
    ]
    gradient = f"ramp-{scale.label(scale.high)}".replace(" ", "").replace("%", "").replace(".", "-")
    parts = [
        element("defs", element("linearGradient", *stops, id=gradient)),
        element("rect", x=1, y=1, width=26, height=14, fill=_ZERO_CSS, class_="frame"),
        element("text", "0: nothing changed", x=33, y=13),
        element("text", scale.starts, x=225, y=13, text_anchor="end"),
        element("rect", x=232, y=1, width=150, height=14, fill=f"url(#{gradient})", class_="frame"),
        element("text", scale.label(scale.high), x=389, y=13),
        element("rect", x=452, y=1.5, width=13, height=13, class_="unshifted"),
        element("text", "unshifted", x=471, y=13),
    ]
    if not_tried:
        parts += [
            element("rect", x=548, y=1, width=26, height=14, fill="rgb(222,224,227)", class_="frame"),
            element("text", "not tried", x=580, y=13),
        ]
    return element("svg", *parts, viewBox="0 0 640 18", class_="legend", role="img", aria_label="Legend of the maps")


def _colours(values: Map, scale: Scale) -> Pixels:
    with np.errstate(invalid="ignore"):
        place = np.nan_to_num(scale.position(values), nan=0.0, posinf=1.0, neginf=0.0) * (len(_RAMP) - 1)
    below = np.minimum(place.astype(int), len(_RAMP) - 2)
    part = (place - below)[..., None]
    colours = _RAMP[below] * (1 - part) + _RAMP[below + 1] * part
    colours[values == 0] = _ZERO
    colours[np.isposinf(values)] = 0
    rounded: Pixels = np.round(colours).astype(np.uint8)
    return rounded


def _pixels(values: Map, scale: Scale) -> Pixels:
    """Return the map as a picture of at least 4 pixels a cell, so that a hatch has room and a scaler blurs little."""
    factor = max(4, 320 // max(values.shape))
    pixels = np.repeat(np.repeat(_colours(values, scale), factor, axis=0), factor, axis=1)
    missing = np.repeat(np.repeat(np.isnan(values), factor, axis=0), factor, axis=1)
    rows, columns = np.indices(missing.shape)
    hatch = (rows + columns) % 8 < 2
    pixels[missing & ~hatch], pixels[missing & hatch] = _NOT_TRIED
    return pixels


def _short_share(share: float) -> str:
    rounded = f"{100 * share:.0f}"
    return "<1 %" if rounded == "0" else ">99 %" if rounded == "100" and share < 1 else f"{rounded} %"


def _numbers(values: Map, scale: Scale, unshifted: tuple[int, int]) -> list[Markup]:
    rows, columns = values.shape
    if max(rows, columns) > _MOST_NUMBERS:
        return []
    dark: npt.NDArray[np.bool_] = _colours(values, scale).astype(np.float64) @ (0.299, 0.587, 0.114) < 140
    texts = []
    for row in range(rows):
        for column in range(columns):
            if not np.isnan(values[row, column]) and (row, column) != unshifted:
                text = "0" if values[row, column] == 0 else scale.short(float(values[row, column]))
                x = _LEFT + (column + 0.5) * _SIDE / columns
                y = _TOP + (row + 0.5) * _SIDE / rows + 4
                shown = "on-dark" if dark[row, column] else None
                small = "font-size:9px" if columns > 5 else None
                texts.append(element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", class_=shown, style=small,
                                     text_anchor="middle"))  # fmt: skip
    return texts


def _axes(downward: Sequence[int], rightward: Sequence[int]) -> list[Markup]:
    middle = _SIDE / 2
    parts = []
    for position in _ticks(len(rightward)):
        x = _LEFT + (position + 0.5) * _SIDE / len(rightward)
        parts.append(element("text", rightward[position], x=f"{x:.1f}", y=_TOP + _SIDE + 15, text_anchor="middle"))
    for position in _ticks(len(downward)):
        y = _TOP + (position + 0.5) * _SIDE / len(downward) + 4
        parts.append(element("text", downward[position], x=_LEFT - 6, y=f"{y:.1f}", text_anchor="end"))
    across = element("text", "shift to the right, pixels", x=_LEFT + middle, y=_TOP + _SIDE + 34, text_anchor="middle")
    turned = f"translate(12 {_TOP + middle}) rotate(-90)"
    down = element("text", "shift down, pixels", transform=turned, text_anchor="middle")
    return [joined(parts), across, down]


def _ticks(count: int) -> list[int]:
    """Return at most `_MOST_TICKS` positions, evenly apart, with the unshifted one (the middle or the first)."""
    if count <= _MOST_TICKS:
        return list(range(count))
    step = -(-count // (_MOST_TICKS - 1))
    return list(range(count // 2 % step, count, step))
