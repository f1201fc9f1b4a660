"""The report's worst case: both images and both answers."""

from __future__ import annotations

from typing import Any

import numpy as np

from aps_deploy.verification.certificate import Certificate
from aps_deploy.verification.pictures import pixels_of, png_of
from aps_deploy.verification.report.markup import Markup, element, table
from aps_deploy.verification.report.words import number


def worst_section(certificate: Certificate) -> list[Markup]:
    """Return the pictures and logits of the pair that changed most; a sentence where nothing changed."""
    case = certificate.details.get("worst_case")
    if case is None:
        return [element("p", "There is none: nothing was measured under shifts.")]
    if case["in_batch"]["bit_identical"] and case["bit_identical"]:
        return [element("p", "There is none: no shift changed one bit of any logit of any image.")]
    return [element("p", _sentence(case)), *_pictures(case), _logits(case), *_file(case)]


def _sentence(case: dict[str, Any]) -> str:
    dy, dx = case["shift"]
    name = f" ({case['image_file']})" if case["image_file"] else ""
    effect = "its predicted class changes" if case["in_batch"]["changes_class"] else "its logits change"
    largest = number(case["in_batch"]["max_logit_change"])
    sentence = (
        f"Image {case['image']}{name}, moved down by {dy} and to the right by {dx} pixels: {effect}, a logit by as "
        f"much as {largest}."
    )
    if case["bit_identical"]:
        return f"{sentence} Run alone it changes in no bit, so the answer depends on the rest of the batch."
    reference = case["reference"]
    if reference is None:
        return sentence
    if reference["bit_identical"]:
        return f"{sentence} The reference does not change in one bit."
    return f"{sentence} The reference changes too, a logit by as much as {number(reference['max_logit_change'])}."


def _pictures(case: dict[str, Any]) -> list[Markup]:
    pixels = None if case["picture_png"] is None else pixels_of(case["picture_png"])
    if pixels is None:
        return []
    dy, dx = case["shift"]
    shown = {"The image": pixels, f"The same image, moved by ({dy}, {dx})": np.roll(pixels, (dy, dx), axis=(0, 1))}
    figures = []
    for position, (title, each) in enumerate(shown.items()):
        best = max(case["top"], key=lambda row: _order(row["logit_shifted" if position else "logit"]), default=None)
        answer = "" if best is None else f" – predicted: {_class_name(best)}"
        picture = element("img", src=f"data:image/png;base64,{png_of(each)}", alt=f"{title}{answer}", class_="picture")
        figures.append(element("figure", picture, element("figcaption", element("strong", title), answer)))
    return [element("div", *figures, class_="pair")]


def _logits(case: dict[str, Any]) -> Markup:
    rows = []
    for row in case["top"]:
        before, after = row["logit"], row["logit_shifted"]
        change = None if before is None or after is None else after - before
        rows.append((_class_name(row), _logit(before), _logit(after), number(change)))
    head = ("Class", "Logit of the image", "Logit of the moved image", "Change")
    return table("The largest logits of both, each image run alone", head, rows, numeric=(1, 2, 3))


def _file(case: dict[str, Any]) -> list[Markup]:
    if case["file"] is None:
        return []
    text = "The input, the shift and both outputs are in "
    return [element("p", text, element("code", case["file"]["name"]), f" (sha256 {case['file']['sha256'][:16]}…).")]


def _class_name(row: dict[str, Any]) -> str:
    return f"class {row['class']}" if row["name"] is None else str(row["name"])


def _logit(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6f}"


def _order(value: float | None) -> float:
    return float("-inf") if value is None else value
