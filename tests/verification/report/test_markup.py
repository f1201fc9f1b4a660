from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from aps_deploy.verification.report.markup import Markup, element, table


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = element("b", "<i>")
    assert inner == "<b>&lt;i&gt;</b>"
    assert element("p", inner, "&", class_="x", data_y='"', none=None) == (
        '<p class="x" data-y="&quot;"><b>&lt;i&gt;</b>&amp;</p>'
    )
    assert element("img", alt="a") == '<img alt="a">'


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.values: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@given(st.text(min_size=1), st.text())
def test_a_parser_reads_back_what_was_written(text: str, value: str) -> None:
    parser = _Text()
    parser.feed(element("p", text, title=value))
    parser.close()
    assert parser.tags == ["p"]
    assert "".join(parser.text) == text
    assert parser.values == [value]


def test_a_table_names_its_rows_and_columns() -> None:
    drawn = table("what", ("a", "b"), [("x", 1), (Markup("<i>y</i>"), 2)], numeric=(1,), row_classes=["good", ""])
    assert drawn.count('scope="col"') == drawn.count('scope="row"') == 2
    assert '<tr class="good"><th scope="row">x</th><td class="number">1</td></tr>' in drawn
    assert "<i>y</i>" in drawn and "<caption>what</caption>" in drawn
