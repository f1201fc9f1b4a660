"""Limits from a file, and a saved certificate judged by other limits without running anything again."""

from __future__ import annotations

import dataclasses
import datetime
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from aps_deploy.errors import InputError
from aps_deploy.verification.certificate import Certificate, Check
from aps_deploy.verification.gates import GATES, checked_overrides, judge
from aps_deploy.verification.ledger import explained


def read_gates(path: str | os.PathLike[str]) -> dict[str, float | None]:
    """Return the overrides in a TOML file of lines such as ``top1_consistency = 95`` and ``accuracy_drop = "off"``.

    Raises:
        InputError: the file is missing or no TOML, a name is no gate, or a value is neither a number nor ``"off"``.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give a TOML file with lines such as top1_consistency = 95.") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is not a TOML file ({error}).") from error
    overrides: dict[str, float | None] = {}
    for name, value in document.items():
        if isinstance(value, str) and value.lower() in ("off", "none"):
            overrides[name] = None
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            overrides[name] = float(value)
        else:
            raise InputError(f'{path}: gate {name} is {value!r}; give a number, or "off" to only report it.')
    try:
        return checked_overrides(overrides)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def rejudge(
    certificate: Certificate, overrides: Mapping[str, float | None], *, source: str = "", sha256: str = ""
) -> Certificate:
    """Return the certificate with its measured numbers judged by other limits; the limits not named stay.

    Args:
        certificate: what was measured.
        overrides: limits by gate name; None as a limit only reports.
        source: name of the file the certificate came from.
        sha256: of that file.

    Raises:
        InputError: a name is no gate, or the certificate has no number to judge by it: it was not measured, or it
            was measured with another value of a gate that parametrises others.
    """
    chosen = checked_overrides(overrides)
    for name, limit in chosen.items():
        _check_measured(certificate, name, limit)
    numbers = {name: limit for name, limit in chosen.items() if not GATES[name].parametrises}
    return dataclasses.replace(
        certificate,
        checks=tuple(_judged(check, numbers) for check in certificate.checks),
        limits={**certificate.limits, **numbers},
        overrides={**certificate.overrides, **chosen},
        rejudged={
            "certificate": source,
            "sha256": sha256,
            "overrides": chosen,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    )


def _check_measured(certificate: Certificate, name: str, limit: float | None) -> None:
    again = "verify the file again, with the gate"
    depending = GATES[name].parametrises
    if depending:
        if name in certificate.limits and certificate.limits[name] == limit:
            return
        raise InputError(
            f"gate {name} decides how {', '.join(depending)} is measured, so a saved certificate cannot be judged by "
            f"another value of it; {again}."
        )
    check = next((check for check in certificate.checks if check.name == name), None)
    if check is None:
        raise InputError(f"the certificate has no measurement for the gate {name}; {again}.")
    if check.status == "not_applicable":
        raise InputError(f"the certificate has no measurement for the gate {name} ({check.reason}); leave it out.")


def _judged(check: Check, overrides: Mapping[str, float | None]) -> Check:
    if check.name not in overrides:
        return check
    limit = overrides[check.name]
    status = judge(check.measured, check.comparison, limit)
    reason = explained(status, GATES[check.name].reason, check.fault)
    return dataclasses.replace(check, status=status, tolerance=limit, reason=reason)
