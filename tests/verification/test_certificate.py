from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from aps_deploy.errors import InputError
from aps_deploy.verification.certificate import Certificate, Check, Status, certificate_path
from aps_deploy.verification.table import certificate_table
from tests.verification.samples import bare_certificate


def _check(name: str, status: Status, measured: float | None = 1.0) -> Check:
    return Check(name, "parity", status, measured, 2.0, "<=", "logit", "a reason")


def _certificate(*checks: Check) -> Certificate:
    layer = {
        "layer": "layer2.0.pool", "agreed": 3, "explained": 0, "unexplained": 0, "tied": 1,
        "tied_in_file": 0, "at_risk": 0, "measured_error": 1e-7, "tolerance": 2e-7, "smallest_margin": None,
        "margins": {"tied": 4, "log10_from": 0.0, "counts": [], "log10_step": 0.25},
    }  # fmt: skip
    selection = {"num_images": 4, "tied_images": 4, "layers": [layer], "margin_histogram": {"0": 4}, "scores": ""}
    return bare_certificate(*checks, details={"selection": selection})


def test_verdicts() -> None:
    assert _certificate(_check("a", "passed"), _check("b", "reported")).exit_code == 0
    failed = _certificate(_check("a", "passed"), _check("b", "failed"))
    assert (failed.passed, failed.exit_code) == (False, 1)
    assert [check.name for check in failed.failed_checks] == ["b"]


def test_a_certificate_without_evidence_does_not_pass() -> None:
    assert not _certificate().passed
    assert not _certificate(_check("a", "reported"), _check("b", "not_applicable")).passed


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    certificate = _certificate(_check("a", "passed"), _check("b", "failed", None))
    path = certificate.save(tmp_path / "c.json")
    assert Certificate.from_json(path) == certificate
    document = json.loads(path.read_text())
    assert list(document)[:3] == ["certificate_version", "passed", "failed"]
    assert document["failed"] == ["b: not a number (limit <= 2): a reason"]
    assert json.loads(certificate.to_json()) == document
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_certificate_survives_a_failed_write(tmp_path: Path) -> None:
    path = _certificate(_check("a", "passed")).save(tmp_path / "c.json")
    before = path.read_bytes()
    broken = _certificate(_check("a", "passed", float("nan")))
    with pytest.raises(ValueError):
        broken.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"passed": False}, "does not follow"),
        ({"certificate_version": 99}, "version 99"),
        ({"checks": [{"name": "a"}]}, r"damaged certificate \(checks\[0\]\.group is missing"),
        ({"details": {"selection": {"layers": 3}}}, r"details\.selection\.num_images is missing"),
        ({"data": None}, "data is null; it must be object"),
    ],
)
def test_damaged_certificates_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**_certificate(_check("a", "passed")).to_dict(), **change}))
    with pytest.raises(InputError, match=message):
        Certificate.from_json(path)


@pytest.mark.parametrize(
    ("status", "measured"), [("passed", 3.0), ("passed", None), ("failed", 1.0), ("reported", 1.0)]
)
def test_a_verdict_that_does_not_follow_from_its_number_is_refused(
    status: Status, measured: float | None, tmp_path: Path
) -> None:
    path = _certificate(_check("a", "passed"), _check("b", status, measured)).save(tmp_path / "c.json")
    with pytest.raises(InputError, match=f"b is {status}, which does not follow from its numbers"):
        Certificate.from_json(path)


def test_unknown_members_are_ignored() -> None:
    certificate = _certificate(_check("a", "passed"))
    document = {**certificate.to_dict(), "colour": "red"}
    document["checks"][0]["weight"] = 3
    assert Certificate.from_dict(document) == certificate


@pytest.mark.parametrize("text", ["{}", "[1]", "nothing"])
def test_other_files_are_no_certificates(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"c\.json"):
        Certificate.from_json(path)


def test_the_default_place() -> None:
    assert certificate_path("some/net.onnx") == Path("some/net.certificate.json")
    assert certificate_path("resnet20_aps3.cifar10") == Path("resnet20_aps3.cifar10.certificate.json")


def test_the_table_shows_verdicts_layers_and_reasons() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(certificate_table(_certificate(_check("a", "passed"), _check("b", "failed", None))))
    text = console.export_text()
    for part in ("net.onnx", "layer2.0.pool", "FAILED", "not finite", "a reason", "15 shifts"):
        assert part in text
    console.print(certificate_table(_certificate(_check("a", "passed"))))
    assert console.export_text().strip().endswith("passed")


def test_asking_for_a_check() -> None:
    certificate = _certificate(_check("a", "passed"))
    assert certificate.check("a").status == "passed"
    with pytest.raises(KeyError):
        certificate.check("z")
