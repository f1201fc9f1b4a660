"""The script that keeps the packaged network's certificates, on few images."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from aps_deploy.verification import Certificate
from tests.scripts.loading import load_script
from tests.threads import one_thread  # noqa: F401 (a fixture of this folder)
from tests.verification.fakes import corner
from tests.verification.samples import make_certificate


@pytest.fixture(scope="module")
def certify() -> ModuleType:
    return load_script("certify.py", "certify")


def _run(certify: ModuleType, folder: Path, *arguments: str) -> int:
    before = Path.cwd()
    code: int = certify.main(["--out-dir", str(folder), *arguments])
    assert Path.cwd() == before
    return code


def test_a_certificate_and_a_page_are_kept(certify: ModuleType, tmp_path: Path) -> None:
    assert _run(certify, tmp_path, "--precision", "fp32", "--images", "4", "--budget", "8") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", f"{certify.NAME}.fp32.certificate.json"}
    certificate = Certificate.from_json(tmp_path / f"{certify.NAME}.fp32.certificate.json")
    assert (certificate.counts["images"], certificate.counts["shifts"]) == (4, 2)
    # It names nothing of the machine it was made on.
    assert certificate.command is not None and "/" not in certificate.command
    assert "| 4 x 2 | 100.00 % | 100.00 % |" in (tmp_path / "README.md").read_text()


def test_what_failed_is_not_kept(
    certify: ModuleType,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failed = make_certificate(tmp_path_factory.mktemp("elsewhere"), corner)
    monkeypatch.setattr(certify, "certify", lambda precision, chosen: failed)
    assert _run(certify, tmp_path) == 1
    assert list(tmp_path.iterdir()) == []
    assert "top1_consistency" in capsys.readouterr().err


@pytest.mark.slow
def test_every_precision_passes(certify: ModuleType, tmp_path: Path) -> None:
    assert _run(certify, tmp_path, "--images", "64", "--budget", "128") == 0
    assert len(list(tmp_path.glob("*.certificate.json"))) == 4
