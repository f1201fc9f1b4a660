"""The certificates in docs/certificates are of the network in the package, and say what the documents say of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aps_deploy.files import sha256_of
from aps_deploy.packaged import packaged_models
from aps_deploy.verification import Certificate
from aps_deploy.verification.gates import PRECISIONS

NAME = "resnet20_aps3.cifar10"
FOLDER = Path(__file__).parents[2] / "docs" / "certificates"

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="docs/certificates is not there: run scripts/certify, or look in the repository"
)


def _kept(precision: str) -> Certificate:
    return Certificate.from_json(FOLDER / f"{NAME}.{precision}.certificate.json")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_kept_certificate_is_of_the_packaged_network_and_passed(precision: str) -> None:
    certificate = _kept(precision)
    assert certificate.passed
    assert certificate.overrides == {}
    assert certificate.file["precision"] == certificate.file["precision_found"] == precision
    packaged = sha256_of(packaged_models()[NAME])
    renew = f"the packaged network is another one now: run scripts/certify --precision {precision}"
    assert certificate.reference["sha256"] == certificate.file["checkpoint_sha256"] == packaged, renew
    assert certificate.check("identical_shifts").measured == 100
    assert certificate.command is not None and "/" not in certificate.command


def test_int8_costs_no_more_than_a_point_of_accuracy() -> None:
    certificate = _kept("int8")
    drop = certificate.check("accuracy_drop")
    assert drop.status == "passed" and drop.tolerance == 1
    assert certificate.counts["images"] >= 256
    assert certificate.file["calibration"]["images"] >= 256


def test_the_page_lists_them_all() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    linked = [precision for precision in PRECISIONS if f"({NAME}.{precision}.certificate.json)" in page]
    assert linked == list(PRECISIONS)
