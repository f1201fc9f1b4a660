"""The command line that measures a certificate again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

from aps_deploy.verification.certificate import Certificate
from aps_deploy.verification.preparing import Preparation


def verify_command(
    certificate: Certificate,
    file: str | os.PathLike[str],
    reference: str | None,
    data_dir: str | os.PathLike[str],
    shifts: str | int,
    preparation: Preparation,
) -> str:
    """Return the command for a POSIX shell; what was a default is written out, so that other defaults change nothing.

    Args:
        certificate: what was measured.
        file: as the caller gave it.
        reference: as the caller gave it; None where there was none.
        data_dir: as the caller gave it.
        shifts: as the caller gave it.
        preparation: as the caller gave it.
    """
    option = "--load-reference" if certificate.reference.get("kind") == "saved" else "--reference"
    compared = [] if reference is None else [option, reference]
    environment, data = certificate.environment, certificate.data
    words = [
        "aps-deploy", "verify", os.fspath(file), *compared, "--data", os.fspath(data_dir), *preparation.words(),
        "--images", data["num_images"], "--shifts", shifts, "--seed", data["seed"],
        "--runtime", environment["runtime"], "--device", environment["device"], "--batch-size", data["batch_size"],
    ]  # fmt: skip
    asked = certificate.details.get("precision", {}).get("asked")
    if asked is not None:
        words += ["--precision", asked]
    budget = certificate.shift_set.get("budget")
    if budget is not None:
        words += ["--budget", budget]
    return shlex.join([str(word) for word in words] + gate_words(certificate.overrides))


def gate_words(overrides: Mapping[str, float | None]) -> list[str]:
    """Return the overrides as words of a command line."""
    words = []
    for name, limit in overrides.items():
        words += ["--gate", f"{name}={'off' if limit is None else repr(float(limit)).removesuffix('.0')}"]
    return words
