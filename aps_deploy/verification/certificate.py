"""The outcome of a verification: what was measured, what was asked, and the verdict. JSON for programs.

`docs/certificate.md` and `certificate.schema.json` describe the document. Imports neither torch nor onnx: a server
checks a certificate before it loads anything.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.files import read_json, write_text
from aps_deploy.verification.gates import Status as Status
from aps_deploy.verification.gates import judge
from aps_deploy.verification.json_text import json_text
from aps_deploy.verification.schema import certificate_schema, first_fault

CERTIFICATE_VERSION = 2
"""Grows when a reader of the older version would misread the document; members may be added without."""

MODEL_SUFFIXES = (".onnx", ".safetensors", ".plan", ".engine")


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the certificate.

    Attributes:
        name: name of the gate.
        group: ``file``, ``static``, ``selection``, ``parity``, ``consistency`` or ``batch``.
        status: the verdict; ``reported`` where there is no limit, ``not_applicable`` where nothing can be measured.
        measured: the number; None where there is none or it is not finite.
        tolerance: the limit; None where there is none.
        comparison: how they compare, ``<=`` or ``>=``.
        unit: of both.
        reason: why the gate exists, or what went wrong.
        fault: what was found where the number is not perfect, in words, also where the gate accepts it.
    """

    name: str
    group: str
    status: Status
    measured: float | None
    tolerance: float | None
    comparison: str
    unit: str
    reason: str
    fault: str = ""

    def sentence(self) -> str:
        """Return the check in one line, such as ``parity_excess: 3.2 tolerances (limit <= 1)``."""
        value = "not a number" if self.measured is None else f"{self.measured:.6g} {self.unit}"
        limit = "no limit" if self.tolerance is None else f"limit {self.comparison} {self.tolerance:g}"
        return f"{self.name}: {value} ({limit}): {self.reason}"


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Everything that a verification found.

    Attributes:
        file: the verified file: name, sha256, architecture, precision (declared, and found in its layers), polyphase
            form, and the options it declares.
        reference: the float32 model it was compared with: name, sha256, architecture, and the options that say what
            is promised: selection mode, criterion, padding.
        checks: one entry per gate.
        counts: images, shifts, selections by verdict (agreed, explained, unexplained, tied, at_risk).
        environment: runtime, device, providers, versions.
        data: number, size and hash of the images; seed.
        shift_set: how the shifts were chosen, and which they are.
        overrides: gates that are the caller's and not the defaults.
        details: the measurements behind the checks, by group.
        created: time in UTC, ISO 8601, of the measurement.
        limits: limit of every gate by name, those without a number of their own among them (``parity_atol``).
        command: the command line that measures the same again; None where Python code asked.
        rejudged: where the checks were judged by other limits after the measurement: ``certificate`` (name),
            ``sha256`` of that file, ``overrides`` and ``created``; None where they were not.
    """

    file: dict[str, Any]
    reference: dict[str, Any]
    checks: tuple[Check, ...]
    counts: dict[str, int]
    environment: dict[str, Any]
    data: dict[str, Any]
    shift_set: dict[str, Any]
    overrides: dict[str, float | None]
    details: dict[str, Any]
    created: str
    limits: dict[str, float | None] = dataclasses.field(default_factory=dict)
    command: str | None = None
    rejudged: dict[str, Any] | None = None

    @property
    def passed(self) -> bool:
        """Whether something was checked and nothing failed."""
        return any(check.status == "passed" for check in self.checks) and not self.failed_checks

    @property
    def failed_checks(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "failed")

    @property
    def exit_code(self) -> int:
        """0 where it passed, 1 where a gate failed."""
        return 0 if self.passed else 1

    def check(self, name: str) -> Check:
        """Return the check of one gate.

        Raises:
            KeyError: the certificate has no such check.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate as plain JSON values, verdict first."""
        document = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        document["checks"] = [dataclasses.asdict(check) for check in self.checks]
        return {
            "certificate_version": CERTIFICATE_VERSION,
            "passed": self.passed,
            "failed": [check.sentence() for check in self.failed_checks],
            **document,
        }

    def to_json(self) -> str:
        """Return the certificate as JSON text."""
        return json_text(self.to_dict())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the certificate as JSON, atomically, and return its path.

        Raises:
            InputError: the folder does not exist.
            ApsError: the disk is full or the folder cannot be written.
        """
        write_text(path, self.to_json())
        return Path(path)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Certificate:
        """Return the certificate in a file.

        Raises:
            InputError: the file is missing, is no certificate, is of a newer version, or its verdict does not follow
                from its checks.
        """
        try:
            document = read_json(path)
        except InputError as error:
            raise InputError(f"{str(error).removesuffix('.')}; give a certificate of `aps-deploy verify`.") from error
        return cls.from_dict(document, source=str(path))

    @classmethod
    def from_dict(cls, document: Any, *, source: str = "the certificate") -> Certificate:
        """Return the certificate in a document made by `to_dict`; see `from_json`. Unknown members are ignored."""
        version = document.get("certificate_version") if isinstance(document, dict) else None
        if version is None:
            raise InputError(f"{source} is not a certificate; write one with `aps-deploy verify`.")
        if version != CERTIFICATE_VERSION:
            raise InputError(
                f"{source} is a certificate of version {version}, this program reads {CERTIFICATE_VERSION}; "
                "verify the file again."
            )
        fault = first_fault(document, certificate_schema())
        if fault is not None:
            raise InputError(f"{source} is a damaged certificate ({fault}); verify the file again.")
        values = {field.name: document[field.name] for field in dataclasses.fields(cls)}
        known = [field.name for field in dataclasses.fields(Check)]
        values["checks"] = tuple(Check(**{name: check[name] for name in known}) for check in document["checks"])
        certificate = cls(**values)
        if certificate.passed != document["passed"]:
            raise InputError(f"{source}: its verdict does not follow from its checks; verify the file again.")
        for check in certificate.checks:
            if check.status != "not_applicable" and check.status != judge(
                check.measured, check.comparison, check.tolerance
            ):
                raise InputError(
                    f"{source}: {check.name} is {check.status}, which does not follow from its numbers; "
                    "verify the file again."
                )
        return certificate


def certificate_path(file: str | os.PathLike[str]) -> Path:
    """Return where the certificate of a file is written by default: ``<stem>.certificate.json`` beside it."""
    path = Path(file)
    # A packaged name such as resnet20.cifar10 has a dot but no suffix.
    stem = path.stem if path.suffix in MODEL_SUFFIXES else path.name
    return path.with_name(f"{stem}.certificate.json")
