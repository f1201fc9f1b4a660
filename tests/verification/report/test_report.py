"""The report says the verdict first, shows everything it promises, and needs nothing but itself."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from aps_deploy.errors import InputError
from aps_deploy.verification.certificate import Certificate, Check
from aps_deploy.verification.judging import rejudge
from aps_deploy.verification.report import report_html, save_report
from aps_deploy.verification.report.verdict import verdict_sentence
from aps_deploy.verification.report.words import scientific
from tests.verification.fakes import Images, corner, invariant
from tests.verification.samples import bare_certificate, make_certificate

VOID = ("br", "img", "meta")
SECTIONS = (
    "Gates", "Under shifts", "Worst case", "Beyond circular shifts", "Selections", "Agreement with the reference",
    "How to reproduce it",
)  # fmt: skip


class Page(HTMLParser):
    """Reads a page, and fails where a tag is not closed by its own."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append((self.open[-1] if self.open else "", data))

    def text(self, *tags: str) -> str:
        return " ".join(data for tag, data in self.words if not tags or tag in tags)


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("changing"), corner, reference=corner, shifts="all")


@pytest.fixture(scope="module")
def unchanging(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("unchanging"), invariant)


def test_the_verdict_comes_first(changing: Certificate, unchanging: Certificate) -> None:
    for certificate, word in ((changing, "Failed"), (unchanging, "Passed")):
        page = Page(report_html(certificate))
        body = page.text("p", "h1", "h2", "caption")
        assert body.index(word) < body.index(verdict_sentence(certificate)) < body.index("Gates")
        assert tuple(data for tag, data in page.words if tag == "h2") == SECTIONS


def test_one_sentence_says_it(changing: Certificate, unchanging: Certificate) -> None:
    sentence = verdict_sentence(unchanging)
    judged = sum(check.status == "passed" for check in unchanging.checks)
    assert sentence == (
        f"net.onnx passed all {judged} gates in ONNX Runtime on the CPU: its answer stayed the same to the last bit, "
        "for 20 images under 15 circular shifts."
    )
    failed = verdict_sentence(changing)
    assert "net.onnx failed 2 of" in failed and "(top1_consistency, identical_shifts)" in failed
    share = changing.details["consistency"]["top1_percent"]
    assert f"{100 - share:.2f} % of the cases, for 20 images under 95 circular shifts" in failed


def test_limits_of_the_callers_own_are_said_in_the_verdict(changing: Certificate) -> None:
    relaxed = rejudge(changing, {"top1_consistency": 1.0, "identical_shifts": None})
    assert relaxed.passed
    assert "2 limits of which the caller set (top1_consistency, identical_shifts)" in verdict_sentence(relaxed)
    assert report_html(relaxed).count("set by the caller") == 2


def test_nothing_judged_is_nothing_proven() -> None:
    certificate = bare_certificate(Check("a", "file", "reported", 1.0, None, "<=", "x", "a reason"))
    assert "not proven" in verdict_sentence(certificate)
    assert "Failed" in report_html(certificate)


def test_it_needs_nothing_but_itself(changing: Certificate) -> None:
    text = report_html(changing)
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "base")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    outside = re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    assert "http" not in outside.replace("http-equiv", "") and "@import" not in outside
    assert re.findall(r"url\((.*?)\)", outside) == re.findall(r"url\((#[\w-]+)\)", outside)
    policies = [a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_every_chart_and_picture_is_described(changing: Certificate) -> None:
    page = Page(report_html(changing))
    charts = [attributes for tag, attributes in page.elements if tag == "svg"]
    # Two maps for file and reference each with a legend per row, and a histogram for each of two layers.
    assert len(charts) == 2 * 2 + 2 + 2
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in charts)
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == 2
    assert [str(attributes["alt"]).startswith(("The image", "The same image, moved by")) for attributes in pictures]
    assert dict(page.elements)["html"]["lang"] == "en"


def test_identifiers_are_unique(changing: Certificate, unchanging: Certificate) -> None:
    for certificate in (changing, unchanging):
        identifiers = [a["id"] for _, a in Page(report_html(certificate)).elements if "id" in a]
        assert len(identifiers) == len(set(identifiers))


def test_every_gate_is_in_the_table(changing: Certificate) -> None:
    page = Page(report_html(changing))
    text = page.text()
    for check in changing.checks:
        assert check.name in text and check.reason in text
    rows = [attributes.get("class") for tag, attributes in page.elements if tag == "tr"]
    assert rows.count("failed") == 2
    # The verdict is a word and a sign, not only a colour.
    assert page.text("td").count(" failed") == 2 and page.text("span").count("✗") == 3


def test_the_margins_have_their_error_marked(changing: Certificate) -> None:
    text = report_html(changing)
    for layer in changing.details["selection"]["layers"]:
        assert f">measured error {scientific(layer['measured_error'], 2)}<" in text
        assert f">tolerance {scientific(layer['tolerance'], 2)}<" in text
        assert f"Layer {layer['layer']}: {sum(layer['margins']['counts'])} margins" in text


def test_the_worst_case_shows_both_images_and_both_answers(changing: Certificate) -> None:
    case = changing.details["worst_case"]
    text = report_html(changing)
    dy, dx = case["shift"]
    assert f"moved down by {dy} and to the right by {dx} pixels: its predicted class changes" in text
    for row in case["top"]:
        assert f"{row['logit']:.6f}" in text and f"{row['logit_shifted']:.6f}" in text


def test_a_damaged_picture_is_left_out(changing: Certificate) -> None:
    case = {**changing.details["worst_case"], "picture_png": "###"}
    damaged = dataclasses.replace(changing, details={**changing.details, "worst_case": case})
    assert "<img" not in report_html(damaged)


def test_it_says_how_to_reproduce_it(changing: Certificate) -> None:
    text = Page(report_html(changing)).text()
    for part in (changing.command, changing.file["sha256"], changing.reference["sha256"], changing.data["sha256"]):
        assert part and part in text
    for name, version in changing.environment["versions"].items():
        assert f"{name} {version}" in text


@pytest.mark.parametrize("missing", ["consistency", "reference_consistency", "selection", "parity", "worst_case"])
def test_what_was_not_measured_is_said(missing: str, changing: Certificate) -> None:
    details = {name: value for name, value in changing.details.items() if name != missing}
    Page(report_html(dataclasses.replace(changing, details=details)))


def test_a_certificate_with_nothing_in_it_has_a_report() -> None:
    text = Page(report_html(bare_certificate())).text()
    for sentence in ("Nothing was measured under shifts", "No selections were compared", "No logits were compared"):
        assert sentence in text


def test_answers_that_are_not_finite_have_a_report(tmp_path: Path) -> None:
    def never(images: Images) -> np.ndarray:
        return np.full((len(images), 3), np.nan, np.float32)

    text = Page(report_html(make_certificate(tmp_path, never))).text()
    assert "not finite" in text and "100 % of the cases" in text


def test_where_every_image_ties_the_report_says_so(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, corner, count=4, tied=np.ones(4, bool))
    assert "every image ties" in report_html(certificate)


def test_names_cannot_break_out(changing: Certificate) -> None:
    evil = "<script>alert(1)</script>\" onload='x' </style>"
    checks = (*changing.checks, Check(evil, evil, "failed", 1.0, 0.0, "<=", evil, evil, evil))
    details = {**changing.details, "declared_differently": [evil], "static": [{"rule": evil, "node": evil,
               "op_type": evil, "message": evil}]}  # fmt: skip
    certificate = dataclasses.replace(
        changing, checks=checks, details=details, command=evil, file={**changing.file, "name": evil, "sha256": evil}
    )
    text = report_html(certificate)
    assert "<script" not in text
    page = Page(text)
    assert page.text("title") == f"{evil}: failed"
    assert not any("onload" in attributes for _, attributes in page.elements)


def test_it_is_written_whole_or_not_at_all(changing: Certificate, tmp_path: Path) -> None:
    path = save_report(changing, tmp_path / "c.html")
    assert path.read_text(encoding="utf-8") == report_html(changing)
    with pytest.raises(InputError):
        save_report(changing, tmp_path / "none" / "c.html")
    assert list(tmp_path.iterdir()) == [path]
