"""The report's heat maps: reference and file side by side, on one scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from aps_deploy.verification.certificate import Certificate
from aps_deploy.verification.report.heat_map import Scale, heat_map, legend, magnitude_scale, share_scale
from aps_deploy.verification.report.markup import Markup, element
from aps_deploy.verification.report.shift_grid import Map, ShiftGrid, shift_grid
from aps_deploy.verification.report.words import counted, number, percent


def shifts_section(certificate: Certificate) -> list[Markup]:
    """Return the section's content; a sentence where nothing was measured."""
    measured = certificate.details.get("consistency")
    if measured is None:
        return [element("p", "Nothing was measured under shifts: the file has no logits.")]
    if not measured["num_pairs"]:
        return [element("p", "Every image ties in the reference, which promises nothing then: no pair was counted.")]
    sides = {"The file": measured}
    reference = certificate.details.get("reference_consistency")
    if reference is not None and reference["num_pairs"]:
        sides = {"The float32 reference": reference, **sides}
    grids = {title: shift_grid(each, certificate.shift_set) for title, each in sides.items()}
    intro = (
        f"Every image was moved circularly by every shift of the set, {certificate.shift_set['description']}, and "
        "compared with the unshifted image. A network that keeps the promise has the colour of 0 everywhere."
    )
    parts = [element("p", intro)]
    if "The float32 reference" not in sides:
        parts.append(element("p", _without_reference(certificate.reference)))
    rates = {title: grid.rates for title, grid in grids.items()}
    changes = {title: grid.changes for title, grid in grids.items()}
    captions = {title: _changed_predictions(each) for title, each in sides.items()}
    parts += _row("How often the prediction changes", rates, grids, captions, share_scale(*rates.values()))
    captions = {title: _changed_logits(each) for title, each in sides.items()}
    parts += _row("Largest change of a logit", changes, grids, captions, magnitude_scale(*changes.values()))
    if measured["tied_pairs"]:
        tied = counted(measured["tied_pairs"], "more pair")
        parts.append(element("p", f"{tied} are of images that tie in the reference and are not counted."))
    return parts


def _row(
    title: str, maps: dict[str, Map], grids: dict[str, ShiftGrid], captions: dict[str, str], scale: Scale
) -> list[Markup]:
    figures = []
    for side, values in maps.items():
        grid, words = grids[side], captions[side]
        drawn = heat_map(values, grid.downward, grid.rightward, scale, f"{title}. {side}: {words}")
        caption = element("figcaption", element("strong", side), f" – {words}")
        figures.append(element("figure", drawn, caption))
    not_tried = any(bool(np.isnan(values).any()) for values in maps.values())
    return [
        element("h3", title),
        element("div", *figures, class_="pair"),
        legend(scale, not_tried=not_tried),
    ]


def _without_reference(reference: dict[str, Any]) -> str:
    if reference["name"] is None:
        return "There is no reference to be seen beside it."
    if reference.get("saved") is not None:
        return "The reference's answers were saved, for images that were not shifted."
    return "The reference was not tried under these shifts: they are too many, or it ties."


def _changed_predictions(consistency: dict[str, Any]) -> str:
    pairs, images = _pairs_and_images(consistency)
    changed = pairs - consistency["agreeing_pairs"]
    if not changed:
        return f"{images}: no prediction changes in {counted(pairs, 'pair')} of image and shift."
    return f"{images}: the prediction changes in {percent(changed, pairs)} of {counted(pairs, 'pair')}."


def _changed_logits(consistency: dict[str, Any]) -> str:
    pairs, images = _pairs_and_images(consistency)
    other = pairs - consistency["identical_pairs"]
    if not other:
        return f"{images}: not one bit changes in {counted(pairs, 'pair')} of image and shift."
    largest = number(consistency["max_logit_change"])
    share = percent(other, pairs)
    return f"{images}: some bit changes in {share} of {counted(pairs, 'pair')}, a logit by up to {largest}."


def _pairs_and_images(consistency: dict[str, Any]) -> tuple[int, str]:
    pairs = consistency["num_pairs"]
    return pairs, counted(pairs // consistency["num_shifts"], "image")
