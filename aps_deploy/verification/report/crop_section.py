"""The report's windows that move over a larger picture: what no network promises, file and reference side by side."""

from __future__ import annotations

from aps_deploy.verification.certificate import Certificate
from aps_deploy.verification.report.markup import Markup, element, table
from aps_deploy.verification.report.words import counted, number

SURROUNDINGS = {
    "window": "cut out of the larger picture",
    "padding": "cut out of the image with a border of its mean colour",
}


def crop_section(certificate: Certificate) -> list[Markup]:
    """Return a sentence and a table by distance; a sentence alone where nothing was measured."""
    measured = certificate.details.get("crop_shifts")
    if measured is None:
        return [element("p", "No windows were moved: the file has no logits, or an older program verified it.")]
    cut = SURROUNDINGS.get(measured["kind"], measured["kind"])
    intro = (
        f"Of {counted(measured['num_images'], 'image')}, {counted(measured['num_windows'], 'window')} each were {cut}. "
        "Such a move takes pixels away at one border and brings others in at the opposite one, so that nothing is "
        "promised."
    )
    columns = {"Moved by": [f"{distance} px" for distance in measured["distances"]]}
    columns["File"] = [f"{number(share)} %" for share in measured["file_percent"]]
    if measured["reference_percent"] is not None:
        same = number(measured["same_class_percent"])
        intro += f" File and reference are shown side by side; both give the same class to {same} % of the windows."
        columns["Reference"] = [f"{number(share)} %" for share in measured["reference_percent"]]
    caption = "How often the class of the middle window is kept, by the distance of the move"
    rows = list(zip(*columns.values(), strict=False))
    return [element("p", intro), table(caption, tuple(columns), rows, numeric=tuple(range(1, len(columns))))]
