"""HTML and SVG elements whose text is escaped unless it is markup already: names in a certificate may hold anything."""

from __future__ import annotations

import html
from collections.abc import Iterable

_EMPTY = ("br", "img", "meta")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Return an HTML element.

    Args:
        tag: such as ``td``.
        children: markup as it is, anything else as escaped text; None and empty text are left out.
        attributes: underscores mean dashes and one at the end is dropped (``class_``, ``stroke_width``); those that
            are None are left out.
    """
    words = [tag]
    for name, value in attributes.items():
        if value is not None:
            words.append(f'{name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"')
    opening = f"<{' '.join(words)}>"
    if tag in _EMPTY:
        return Markup(opening)
    return Markup(f"{opening}{joined(children)}</{tag}>")


def joined(children: Iterable[object]) -> Markup:
    """Return the children one after the other, escaped where they are no markup."""
    return Markup(
        "".join(child if isinstance(child, Markup) else html.escape(str(child)) for child in children if child != "")
    )


def table(
    caption: str,
    head: Iterable[object],
    rows: Iterable[Iterable[object]],
    *,
    numeric: Iterable[int] = (),
    row_classes: Iterable[str] | None = None,
) -> Markup:
    """Return a table whose first column names the row.

    Args:
        caption: what it shows.
        head: titles of the columns.
        rows: cells, as many as titles.
        numeric: positions of the columns that hold numbers, aligned to the right.
        row_classes: CSS class of each row.
    """
    right = set(numeric)
    all_rows = [list(row) for row in rows]
    classes = list(row_classes) if row_classes is not None else [""] * len(all_rows)
    titles = [
        element("th", title, scope="col", class_="number" if column in right else None)
        for column, title in enumerate(head)
    ]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(
                element("td", cell, class_="number" if column in right else None)
                for column, cell in enumerate(row[1:], start=1)
            ),
            class_=name or None,
        )
        for row, name in zip(all_rows, classes, strict=True)
    ]
    inner = element(
        "table", element("caption", caption), element("thead", element("tr", *titles)), element("tbody", *body)
    )
    return element("div", inner, class_="scroll")
