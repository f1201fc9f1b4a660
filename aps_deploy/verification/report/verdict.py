"""The verdict in one sentence, for readers who stop after it."""

from __future__ import annotations

from typing import Any

from aps_deploy.verification.certificate import Certificate
from aps_deploy.verification.report.words import counted, number, percent, place

_MOST_NAMES = 3


def verdict_sentence(certificate: Certificate) -> str:
    """Return what was found in one sentence, limits that the caller set included."""
    judged = [check for check in certificate.checks if check.status in ("passed", "failed")]
    failed = [check.name for check in certificate.failed_checks]
    name = certificate.file["name"]
    if not judged:
        outcome = f"{name} is not proven, because not one gate could be judged"
    elif failed:
        outcome = f"{name} failed {len(failed)} of {counted(len(judged), 'gate')} ({_some(failed)})"
    else:
        outcome = f"{name} passed all {counted(len(judged), 'gate')}"
    own = [name for name in certificate.overrides if name in certificate.limits]
    if own:
        outcome += f", {counted(len(own), 'limit')} of which the caller set ({_some(own)}),"
    where = place(certificate.environment["runtime"], certificate.environment["device"])
    return f"{outcome} in {where}: {_finding(certificate.details.get('consistency'))}."


def _finding(consistency: dict[str, Any] | None) -> str:
    if consistency is None:
        return "nothing was measured under shifts"
    pairs, shifts = consistency["num_pairs"], consistency["num_shifts"]
    if not pairs:
        return "every image ties in the reference, so nothing was measured under shifts"
    tried = f"{counted(pairs // shifts, 'image')} under {counted(shifts, 'circular shift')}"
    changed = pairs - consistency["agreeing_pairs"]
    other_bits = pairs - consistency["identical_pairs"]
    if changed:
        return f"its predicted class changed in {percent(changed, pairs)} of the cases, for {tried}"
    if other_bits:
        largest = number(consistency["max_logit_change"])
        return (
            f"its predicted class never changed, for {tried}, and its numbers changed in "
            f"{percent(other_bits, pairs)} of the cases, by at most {largest}"
        )
    return f"its answer stayed the same to the last bit, for {tried}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
