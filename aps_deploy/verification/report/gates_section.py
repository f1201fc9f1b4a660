"""The report's table of gates, failures marked by a sign and a word, and what stands behind the static ones."""

from __future__ import annotations

from aps_deploy.verification.certificate import Certificate, Check
from aps_deploy.verification.report.markup import Markup, element, joined, table
from aps_deploy.verification.report.words import number

_VERDICTS = {
    "passed": ("✓", "passed"),
    "failed": ("✗", "failed"),
    "reported": ("·", "reported"),
    "not_applicable": ("–", "not applicable"),
}


def gates_section(certificate: Certificate) -> list[Markup]:
    """Return the table, and lists of what the file declares otherwise and of the static findings."""
    rows = [_row(certificate, check) for check in certificate.checks]
    drawn = table(
        "Every gate: what was measured, what is accepted, and why",
        ("Gate", "Verdict", "Measured", "Limit", "Reason"),
        rows,
        numeric=(2, 3),
        row_classes=[check.status.replace("_", "-") for check in certificate.checks],
    )
    parts = [drawn]
    declared = certificate.details.get("declared_differently") or []
    if declared:
        parts.append(element("h3", "What the file declares otherwise than its reference"))
        parts.append(element("ul", *(element("li", each) for each in declared)))
    findings = certificate.details.get("static") or []
    if findings:
        parts.append(
            table(
                "Findings in the graph, seen without running it",
                ("Rule", "Node", "Finding"),
                [(each["rule"], each["node"], each["message"]) for each in findings],
            )
        )
    return parts


def _row(certificate: Certificate, check: Check) -> list[object]:
    sign, word = _VERDICTS[check.status]
    verdict = joined([element("span", sign, class_="sign", aria_hidden="true"), f" {word}"])
    if check.status == "not_applicable":
        measured: object = "–"
    else:
        measured = joined([number(check.measured), " ", element("small", check.unit)])
    limit: object = "–"
    if check.tolerance is not None:
        limit = f"{'≤' if check.comparison == '<=' else '≥'} {number(check.tolerance)}"
    if check.name in certificate.overrides:
        limit = joined([limit, " ", element("small", "set by the caller")])
    name = joined([element("code", check.name), " ", element("small", check.group)])
    return [name, verdict, measured, limit, check.reason]
