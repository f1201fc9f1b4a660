"""The report in a real browser: Debian's chromium, headless, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aps_deploy.verification.report import save_report
from tests.verification.fakes import corner
from tests.verification.samples import make_certificate

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (apt-get install chromium)")


def _browse(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    profile = f"--user-data-dir={folder / 'profile'}"
    # Root may start it only without the sandbox; the page has no script.
    common = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", profile]
    return subprocess.run(
        [CHROMIUM, *common, *arguments], capture_output=True, text=True, check=True, timeout=300, cwd=folder
    )


def test_a_browser_shows_it_as_meant(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, corner, reference=corner, shifts="all")
    report = save_report(certificate, tmp_path / "report.html")
    _browse(tmp_path, "--window-size=1000,1400", f"--screenshot={tmp_path / 'page.png'}", report.as_uri())
    picture = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert picture.shape == (1400, 1000, 3)
    red = (picture[:, :, 0] > 140) & (picture[:, :, 1] < 50) & (picture[:, :, 2] < 50)
    # The red bar left of the verdict is in the first fifth of the page, and nothing of it is green.
    assert red[:280].sum() > 500
    assert not ((picture[:280, :, 1] > picture[:280, :, 0] + 60) & (picture[:280, :, 1] > 80)).any()
    # Tables and text fill the page: a style that was refused or failed to parse would leave serif text at the left.
    assert (picture[300:] < 100).all(axis=2).any(axis=0).sum() > 400


def test_the_charts_are_drawn_and_nothing_is_refused(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, corner, reference=corner)
    report = save_report(certificate, tmp_path / "report.html")
    result = _browse(tmp_path, "--enable-logging=stderr", "--dump-dom", report.as_uri())
    assert "Refused" not in result.stderr and "Content Security Policy" not in result.stderr
    assert result.stdout.count("<svg") == 8
    # Printed on paper it is a PDF of a few pages.
    _browse(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'page.pdf'}", report.as_uri())
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
