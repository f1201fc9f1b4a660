"""The report's measurements against the reference: selections with their margins, and logits."""

from __future__ import annotations

from typing import Any

from aps_deploy.verification.certificate import Certificate
from aps_deploy.verification.report.histogram import describe, margin_histogram
from aps_deploy.verification.report.markup import Markup, element, table
from aps_deploy.verification.report.words import counted, number

_CHOICES = {
    "forced": "the file's choices forced",
    "same": "those on which both chose the same components",
    "unknown": "whatever each chose",
}
_COUNTS = ("agreed", "explained", "unexplained", "tied", "at_risk")


def selection_section(certificate: Certificate) -> list[Markup]:
    """Return the table of selecting layers and one histogram of margins per layer; a sentence where none selects."""
    selection = certificate.details.get("selection")
    if not selection or not selection["layers"]:
        check = next((check for check in certificate.checks if check.name == "unexplained_selections"), None)
        why = f": {check.reason}" if check is not None else ""
        return [element("p", f"No selections were compared{why}.")]
    intro = (
        "Each layer keeps one of four grids of its map, per image. Another choice than the reference's is explained "
        "only where the reference's margin between its two best grids is below the tolerance: twice the error "
        f"measured in the file's own scores{_cap_words(certificate.limits.get('margin_cap'))}."
    )
    layers = selection["layers"]
    drawn = table(
        "Selections per layer, counted in images",
        ("Layer", "Agreed", "Explained", "Unexplained", "Tied", "At risk", "Measured error", "Tolerance",
         "Smallest margin"),
        [_layer_row(layer) for layer in layers],
        numeric=range(1, 9),
    )  # fmt: skip
    figures = [element("figure", margin_histogram(layer), element("figcaption", describe(layer))) for layer in layers]
    return [element("p", intro), drawn, element("h3", "Margins"), *figures]


def _cap_words(cap: float | None) -> str:
    return "" if cap is None else f", and never more than {number(cap)}"


def _layer_row(layer: dict[str, Any]) -> list[object]:
    numbers = [
        "–" if layer[name] is None else number(layer[name])
        for name in ("measured_error", "tolerance", "smallest_margin")
    ]
    return [element("code", layer["layer"]), *(f"{layer[name]:,}" for name in _COUNTS), *numbers]


def parity_section(certificate: Certificate) -> list[Markup]:
    """Return the table of differences between the file's logits and the reference's."""
    parity = certificate.details.get("parity")
    if parity is None:
        check = next((check for check in certificate.checks if check.name == "parity_images"), None)
        why = "the file has none" if check is None else check.reason
        return [element("p", f"No logits were compared: {why}.")]
    limits = certificate.limits
    tolerance = f"{number(limits.get('parity_atol'))} + {number(limits.get('parity_rtol'))} · |reference|"
    rows: list[tuple[str, str, str]] = [
        ("Largest absolute difference", number(parity["max_abs"]), "of any logit"),
        ("Largest relative difference", number(parity["max_rel"]), "relative to the reference's logit"),
        ("Mean absolute difference", number(parity["mean_abs"]), "over all logits"),
        ("Largest difference in tolerances", number(parity["worst_excess"]), _tolerance_words(certificate, tolerance)),
        ("Smallest cosine", _long(parity["cosine"]), "of an image's logits in both"),
        ("Same class", f"{number(parity['top1_percent'])} %", "of the images"),
        ("Same five best classes", f"{number(parity['top5_percent'])} %", "of the images, in any order"),
        ("Clear changes of class", number(parity["clear_disagreements"]), "beyond twice the tolerance"),
        ("Rows not finite", number(parity["non_finite"]), "with a NaN or an infinity"),
    ]
    accuracies = (parity["file_accuracy_percent"], parity["reference_accuracy_percent"])
    if None not in accuracies:
        rows += [
            ("Accuracy of the file", f"{number(accuracies[0])} %", "on the labelled images"),
            ("Accuracy of the reference", f"{number(accuracies[1])} %", "on the same images"),
        ]
    choices = _CHOICES[parity.get("choices", "forced")]
    caption = f"Logits of the file against the reference, {parity['num_images']:,} images, {choices}"
    parts = [table(caption, ("What", "Value", "Meaning"), rows, numeric=(1,))]
    if parity.get("left_out"):
        left_out = counted(parity["left_out"], "image")
        parts.append(element("p", f"Not compared: {left_out} on which file and reference chose other components."))
    return parts


def _tolerance_words(certificate: Certificate, tolerance: str) -> str:
    if certificate.limits.get("parity_atol") is None or certificate.limits.get("parity_rtol") is None:
        return "no elementwise tolerance is set"
    return f"one tolerance is {tolerance}"


def _long(value: float | None) -> str:
    # A cosine of 0.99999 and one of 1 are not the same, and four digits would not tell.
    return number(value) if value is None or value == 1 else f"{value:.8f}"
