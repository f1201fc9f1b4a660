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
        "promised: file and reference are shown side by side. Both give the same class to "
        f"{number(measured['same_class_percent'])} % of the windows."
    )
    columns = (measured["distances"], measured["file_percent"], measured["reference_percent"])
    rows = [
        (f"{distance} px", f"{number(ours)} %", f"{number(theirs)} %")
        for distance, ours, theirs in zip(*columns, strict=False)
    ]
    caption = "How often the class of the middle window is kept, by the distance of the move"
    return [element("p", intro), table(caption, ("Moved by", "File", "Reference"), rows, numeric=(1, 2))]
