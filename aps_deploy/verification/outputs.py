"""Where `verify` writes: checked before minutes of measuring, and never in the place of a model or of an input."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from aps_deploy.errors import InputError
from aps_deploy.verification.certificate import MODEL_SUFFIXES, Certificate

_NEVER_A_CERTIFICATE = (
    *MODEL_SUFFIXES, ".pt", ".pth", ".tar", ".ckpt", ".bin", ".engine", ".data", ".npz",
)  # fmt: skip
_SUFFIXES = {
    "report": (".html", ".htm"),
    "JUnit file": (".xml",),
    "worst case": (".npz",),
    "saved reference": (".npz",),
}


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The files of one verification; None is not written.

    Attributes:
        certificate: JSON.
        report: HTML.
        junit: XML.
        worst_case: NumPy archive.
        saved_reference: NumPy archive.
    """

    certificate: Path | None
    report: Path | None = None
    junit: Path | None = None
    worst_case: Path | None = None
    saved_reference: Path | None = None

    def check(self, inputs: Mapping[str, Path]) -> None:
        """Refuse places that cannot be written or are taken.

        Args:
            inputs: what must not be overwritten, by its name in words.

        Raises:
            InputError: a folder is missing, a name has the wrong suffix, or two names are of one file.
        """
        taken = dict(inputs)
        for what, path in self._named().items():
            _check_place(what, path, taken)
            taken[f"the {what}"] = path

    def write(self, certificate: Certificate) -> None:
        """Write the certificate, the report and the JUnit file; what is no text has been written by then.

        Raises:
            ApsError: the disk is full or a folder cannot be written.
        """
        if self.certificate is not None:
            certificate.save(self.certificate)
        if self.report is not None:
            from aps_deploy.verification.report import save_report

            save_report(certificate, self.report)
        if self.junit is not None:
            from aps_deploy.verification.junit import save_junit

            save_junit(certificate, self.junit)

    def _named(self) -> dict[str, Path]:
        places = {
            "certificate": self.certificate,
            "report": self.report,
            "JUnit file": self.junit,
            "worst case": self.worst_case,
            "saved reference": self.saved_reference,
        }
        return {what: path for what, path in places.items() if path is not None}


def _check_place(what: str, target: Path, taken: Mapping[str, Path]) -> None:
    suffix = target.suffix.lower()
    accepted = _SUFFIXES.get(what)
    advice = "give the name of another file, such as NAME" + (accepted[0] if accepted else ".certificate.json")
    if accepted is None and suffix in _NEVER_A_CERTIFICATE:
        raise InputError(f"cannot write the {what} {target}: {target.suffix} is the suffix of a model; {advice}.")
    if accepted is not None and suffix not in accepted:
        raise InputError(f"cannot write the {what} {target}: its name must end in {' or '.join(accepted)}.")
    for owner, path in taken.items():
        if _is_same_file(target, path):
            raise InputError(f"cannot write the {what} {target}: it is {owner}; {advice}.")
    if target.is_dir():
        raise InputError(f"cannot write the {what} {target}: it is a folder; give the name of a file in it.")
    if not target.parent.is_dir():
        raise InputError(f"cannot write the {what} {target}: the folder {target.parent} does not exist.")


def _is_same_file(first: Path, second: Path) -> bool:
    # Both ways: a hard link has another path, and a sidecar that does not exist yet has no file to compare.
    if first.exists() and second.exists() and first.samefile(second):
        return True
    return first.resolve() == second.resolve()


def worst_case_path(certificate: str | os.PathLike[str]) -> Path:
    """Return where the worst case of a certificate is written by default: ``<stem>.worst-case.npz`` beside it."""
    path = Path(certificate)
    return path.with_name(f"{path.name.removesuffix('.json').removesuffix('.certificate')}.worst-case.npz")
