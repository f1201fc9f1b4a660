"""The report as one HTML file: no script, nothing loaded from anywhere, readable offline and on paper."""

from __future__ import annotations

import os
from pathlib import Path

from aps_deploy.files import write_text
from aps_deploy.verification.certificate import Certificate
from aps_deploy.verification.report.crop_section import crop_section
from aps_deploy.verification.report.gates_section import gates_section
from aps_deploy.verification.report.markup import Markup, element, joined
from aps_deploy.verification.report.measured_section import parity_section, selection_section
from aps_deploy.verification.report.origin_section import origin_section
from aps_deploy.verification.report.shifts_section import shifts_section
from aps_deploy.verification.report.verdict import verdict_sentence
from aps_deploy.verification.report.words import number, percent
from aps_deploy.verification.report.worst_section import worst_section

_STYLE = Path(__file__).with_name("style.css")

# The browser itself refuses whatever is not in the file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def save_report(certificate: Certificate, path: str | os.PathLike[str]) -> Path:
    """Write the report of a certificate as HTML, atomically, and return its path.

    Raises:
        InputError: the folder does not exist, or the certificate is damaged.
        ApsError: the disk is full or the folder cannot be written.
    """
    write_text(path, report_html(certificate))
    return Path(path)


def report_html(certificate: Certificate) -> str:
    """Return the report of a certificate as one HTML document.

    Raises:
        InputError: the certificate is damaged.
    """
    word = "Passed" if certificate.passed else "Failed"
    title = f"{certificate.file['name']}: {word.lower()}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        # Not escaped: a style element holds raw text, and this one is the package's own.
        element("style", Markup(_STYLE.read_text(encoding="utf-8"))),
    )
    sections = [
        ("Gates", gates_section(certificate)),
        ("Under shifts", shifts_section(certificate)),
        ("Worst case", worst_section(certificate)),
        ("Beyond circular shifts", crop_section(certificate)),
        ("Selections", selection_section(certificate)),
        ("Agreement with the reference", parity_section(certificate)),
        ("How to reproduce it", origin_section(certificate)),
    ]
    body = element(
        "body",
        element(
            "main",
            _verdict(certificate, word),
            _facts(certificate),
            *(element("section", element("h2", name), *content) for name, content in sections),
        ),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _verdict(certificate: Certificate, word: str) -> Markup:
    sign = element("span", "✓" if certificate.passed else "✗", class_="sign", aria_hidden="true")
    return element(
        "header",
        element("p", "Shift-consistency certificate", class_="kind"),
        element("h1", sign, f" {word}"),
        element("p", verdict_sentence(certificate), class_="sentence"),
        class_="passed" if certificate.passed else "failed",
    )


def _facts(certificate: Certificate) -> Markup:
    details = certificate.details
    consistency, parity = details.get("consistency"), details.get("parity")
    facts = [
        ("images", f"{certificate.data['num_images']:,}"),
        ("shifts of each", f"{len(certificate.shift_set['offsets']):,}"),
    ]
    if consistency is not None and consistency["num_pairs"]:
        pairs = consistency["num_pairs"]
        facts += [
            ("predictions changed by a shift", percent(pairs - consistency["agreeing_pairs"], pairs)),
            ("answers changed in any bit", percent(pairs - consistency["identical_pairs"], pairs)),
        ]
    if parity is not None:
        facts.append(("largest difference from the reference", number(parity["max_abs"])))
        for whose in ("file", "reference"):
            if parity[f"{whose}_accuracy_percent"] is not None:
                facts.append((f"accuracy of the {whose}", f"{parity[f'{whose}_accuracy_percent']:.1f} %"))
    tiles = [element("div", element("dt", name), element("dd", value)) for name, value in facts]
    return element("dl", joined(tiles), class_="facts")
