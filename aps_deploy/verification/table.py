"""A certificate for people: tables for a terminal. Programs read the JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from aps_deploy.verification.certificate import Certificate, Check
    from aps_deploy.verification.every_runtime import RuntimeResult

_SHARES = ("top1_percent", "identical_pairs_percent")
_VERDICTS = {
    "passed": ("passed", "green"),
    "failed": ("FAILED", "bold red"),
    "reported": ("reported", "dim"),
    "not_applicable": ("not applicable", "dim"),
}


def certificate_table(certificate: Certificate) -> RenderableType:
    """Return the certificate as a heading, one line per check, one per selecting layer, and the verdict."""
    parts: list[RenderableType] = [_heading(certificate), *_precision(certificate), _checks(certificate)]
    if certificate.details.get("selection"):
        parts.append(_layers(certificate))
    parts += [*_crop_shifts(certificate), _verdict(certificate)]
    return Group(*parts)


def runtimes_table(results: list[RuntimeResult]) -> RenderableType:
    """Return one line per runtime that ran, what failed in them, and why the others did not run."""
    table = Table(title="Runtimes", title_justify="left")
    for name in ("runtime", "verified", "same class", "same bits", "largest logit change", "verdict"):
        table.add_column(
            name, justify="right" if name in ("same class", "same bits", "largest logit change") else "left"
        )
    notes = Text()
    for result in results:
        place, certificate = result.place, result.certificate
        if result.skipped is not None:
            notes.append(f"skipped {place.label}: {result.skipped}\n", style="dim")
        elif certificate is None:
            table.add_row(place.label, place.file, "-", "-", "-", Text("FAILED", style="bold red"))
            notes.append(f"{place.label}: {result.error}\n", style="red")
        else:
            table.add_row(place.label, certificate.file["name"], *_of_shifts(certificate), _word(certificate))
            for check in certificate.failed_checks:
                notes.append(f"{place.label}: {check.sentence()}\n", style="red")
    return Group(table, notes)


def _of_shifts(certificate: Certificate) -> tuple[str, str, str]:
    found = certificate.details.get("consistency")
    if found is None:
        return "-", "-", "-"
    shares = ("-" if found[name] is None else f"{found[name]:.4g} %" for name in _SHARES)
    return (*shares, _number(found["max_logit_change"]))  # type: ignore[return-value]


def _word(certificate: Certificate) -> Text:
    return Text("passed", style="green") if certificate.passed else Text("FAILED", style="bold red")


def _heading(certificate: Certificate) -> Text:
    environment, data = certificate.environment, certificate.data
    selection = (certificate.file.get("declared") or {}).get("selection")
    named = certificate.file.get("checkpoint_sha256")
    other = ""
    kind = certificate.reference.get("kind", "checkpoint")
    if kind in ("checkpoint", "saved") and named is not None and named != certificate.reference["sha256"]:
        other = " (not the checkpoint that the file says it was made from)"
    lines = [
        f"{certificate.file['name']} ({certificate.file.get('precision') or 'precision not stated'}"
        f"{', ' + str(selection) + ' selection' if selection else ''}) in "
        f"{environment['runtime']} on {environment['device']}, {_against(certificate.reference)}{other}",
        f"{data['num_images']} images of {data['height']}x{data['width']}, {certificate.shift_set['description']}, "
        f"seed {data['seed']}",
    ]
    return Text("\n".join(lines))


def _against(reference: dict[str, Any]) -> str:
    if reference["name"] is None:
        return "without a reference: nothing says what it should answer"
    saved = reference.get("saved")
    return f"against {reference['name']}" + ("" if saved is None else f" (answers saved in {saved['name']})")


def _precision(certificate: Certificate) -> list[Text]:
    layers = (certificate.details.get("precision") or {}).get("layers", [])
    counts = Counter(layer["precision"] for layer in layers)
    if not counts:
        return []
    shown = ", ".join(f"{count} in {name}" for name, count in counts.most_common())
    remarks = [f"{layer['layer']} is the classifier" for layer in layers if layer["is_classifier"] and len(counts) > 1]
    kept = [layer["layer"] for layer in layers if layer.get("is_kept")]
    remarks += [f"kept in fp32 as declared: {', '.join(kept)}"] if kept else []
    return [Text(f"layers that multiply: {shown}{_in_brackets(remarks)}")]


def _in_brackets(remarks: list[str]) -> str:
    return f" ({'; '.join(remarks)})" if remarks else ""


def _checks(certificate: Certificate) -> Table:
    table = Table(title="Checks", title_justify="left")
    table.add_column("group")
    table.add_column("check", no_wrap=True)
    table.add_column("measured", justify="right")
    table.add_column("limit", justify="right")
    table.add_column("verdict")
    group = ""
    for check in certificate.checks:
        word, style = _VERDICTS[check.status]
        shown_group = check.group if check.group != group else ""
        table.add_row(shown_group, check.name, _measured(check), _limit(check), Text(word, style=style))
        group = check.group
    return table


def _layers(certificate: Certificate) -> Table:
    table = Table(title="Selections per layer", title_justify="left")
    counted = ("agreed", "explained", "unexplained", "tied", "tied in file", "at risk")
    for name in ("layer", *counted, "score error", "smallest margin"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for layer in certificate.details["selection"]["layers"]:
        counts = [str(layer[name.replace(" ", "_")]) for name in counted]
        numbers = [_number(layer[name]) for name in ("measured_error", "smallest_margin")]
        table.add_row(layer["layer"], *counts, *numbers)
    return table


def _crop_shifts(certificate: Certificate) -> list[Text]:
    found = certificate.details.get("crop_shifts")
    if found is None:
        return []
    farthest = max(found["distances"], default=0)
    shown = (
        f"windows moved by 1 to {farthest} pixels ({found['kind']}; nothing is promised): the file keeps its class in "
        f"{_number(found['file_top1_percent'])} %"
    )
    if found["reference_top1_percent"] is not None:
        shown += f", the reference in {_number(found['reference_top1_percent'])} %"
    return [Text(shown)]


def _verdict(certificate: Certificate) -> Text:
    if certificate.passed:
        return Text("passed", style="bold green")
    text = Text("FAILED", style="bold red")
    for check in certificate.failed_checks:
        text.append(f"\n  {check.sentence()}", style="red")
    return text


def _measured(check: Check) -> str:
    if check.status == "not_applicable":
        return "-"
    return "not finite" if check.measured is None else f"{_number(check.measured)} {check.unit}"


def _limit(check: Check) -> str:
    return "-" if check.tolerance is None else f"{check.comparison} {_number(check.tolerance)}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e6 else f"{value:.4g}"
