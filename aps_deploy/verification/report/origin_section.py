"""The report's last section: what ran, on what, and the command that measures it again."""

from __future__ import annotations

import shlex
from typing import Any

from aps_deploy.verification.certificate import Certificate
from aps_deploy.verification.commands import gate_words
from aps_deploy.verification.report.markup import Markup, element, joined, table
from aps_deploy.verification.report.words import place


def origin_section(certificate: Certificate) -> list[Markup]:
    """Return the commands, the hashes and the versions."""
    parts: list[Markup] = []
    if certificate.command is not None:
        parts += [element("p", "This measures it again:"), element("pre", element("code", certificate.command))]
    else:
        parts.append(element("p", "The verification was called from Python, so there is no command to repeat."))
    rejudged = certificate.rejudged
    if rejudged is not None:
        words = ["aps-deploy", "verify", "--from", rejudged["certificate"], *gate_words(rejudged["overrides"])]
        sentence = f"The limits were changed afterwards, on {rejudged['created']}, without measuring again, by:"
        parts += [element("p", sentence), element("pre", element("code", shlex.join(words)))]
    file, reference = certificate.file, certificate.reference
    environment, data = certificate.environment, certificate.data
    rows: list[tuple[object, object]] = [
        ("File", joined([file["name"], " ", _hash(file["sha256"])])),
        ("Precision", _precision(file)),
        *_reference(reference),
        ("Ran in", f"{place(environment['runtime'], environment['device'])} ({', '.join(environment['providers'])})"),
        ("Platform", environment["platform"]),
        ("Versions", ", ".join(f"{name} {version}" for name, version in environment["versions"].items())),
        ("Images", joined([f"{data['num_images']:,} of {data['height']} × {data['width']} pixels ",
                           _hash(data["sha256"])])),
        ("Shifts", certificate.shift_set["description"]),
        ("Seed, batch size", f"{data['seed']}, {data['batch_size']}"),
        ("Measured", certificate.created),
    ]  # fmt: skip
    if rejudged is not None:
        rows.append(("Judged anew from", joined([rejudged["certificate"], " ", _hash(rejudged["sha256"])])))
    return [*parts, table("Everything that the outcome depends on", ("What", "Value"), rows)]


def _precision(file: dict[str, Any]) -> str:
    kept = file.get("kept_fp32")
    return str(file["precision"] or "not stated") + (f", but fp32 in {', '.join(kept)}" if kept else "")


def _reference(reference: dict[str, Any]) -> list[tuple[object, object]]:
    if reference["name"] is None:
        return [("Reference", "none: the file alone was measured")]
    rows: list[tuple[object, object]] = [("Reference", joined([reference["name"], " ", _hash(reference["sha256"])]))]
    saved = reference.get("saved")
    if saved is not None:
        rows.append(("Its answers were saved in", joined([saved["name"], " ", _hash(saved["sha256"])])))
    named = "yes, this checkpoint" if reference["is_named_by_file"] else "no, or another checkpoint"
    return [*rows, ("Named by the file", named), ("Architecture", reference["architecture"] or "not known")]


def _hash(digest: str) -> Markup:
    return element("code", f"sha256 {digest}", class_="hash")
