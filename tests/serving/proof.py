"""Certificates of files that no verification saw, for tests of who asks for one."""

from __future__ import annotations

from pathlib import Path

from aps_deploy.files import sha256_of
from aps_deploy.verification.certificate import Check, certificate_path
from tests.verification.samples import bare_certificate


def certify(file: Path, *, passed: bool = True, sha256: str | None = None) -> Path:
    """Write a certificate beside a file, and return its path."""
    status, measured = ("passed", 100.0) if passed else ("failed", 98.0)
    check = Check("top1_consistency", "consistency", status, measured, 100.0, ">=", "%", "a shift changed the answer")  # type: ignore[arg-type]
    certificate = bare_certificate(check)
    certificate.file["sha256"] = sha256_of(file) if sha256 is None else sha256
    return certificate.save(certificate_path(file))
