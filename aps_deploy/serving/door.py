"""The certificate at the door: a file is served, or packaged for another server, only where it was proven."""

from __future__ import annotations

from pathlib import Path

from aps_deploy.errors import InputError
from aps_deploy.files import sha256_of
from aps_deploy.verification.certificate import Certificate, certificate_path


def check_certificate(file: Path) -> Certificate:
    """Return the certificate beside a file, which passed and is of these very bytes.

    Args:
        file: an ONNX file; its certificate is ``<stem>.certificate.json`` in the same folder.

    Raises:
        InputError: there is none, it cannot be read, it is of other bytes, or a gate failed.
    """
    path = certificate_path(file)
    verify = f"`aps-deploy verify {file} --reference CKPT --data DIR`"
    if not file.is_file():
        raise InputError(f"{file} does not exist; give an ONNX file made by `aps-deploy export`.")
    if not path.is_file():
        raise InputError(f"{file} has no certificate ({path.name} beside it); write one with {verify}.")
    certificate = Certificate.from_json(path)
    if certificate.file.get("sha256") != sha256_of(file):
        raise InputError(f"{path} is of another file than {file}, whose SHA-256 it does not name; run {verify}.")
    if not certificate.passed:
        failed = ", ".join(check.name for check in certificate.failed_checks) or "nothing was checked"
        raise InputError(f"{path} did not pass ({failed}); mend the file, then run {verify}.")
    return certificate
