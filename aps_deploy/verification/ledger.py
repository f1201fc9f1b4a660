"""Turns measured numbers into checks, each by the gate of its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from aps_deploy.verification.certificate import Check
from aps_deploy.verification.comparing import finite_or_none
from aps_deploy.verification.gates import Gate, Status, judge


class Ledger:
    """Collects the checks of one verification, in order.

    Args:
        gates: from `gates.resolve_gates`.
    """

    def __init__(self, gates: Mapping[str, Gate]) -> None:
        self.gates = gates
        self.checks: list[Check] = []

    def limit(self, name: str) -> float:
        """Return the limit of a gate that only parametrises others; infinite where there is none."""
        limit = self.gates[name].limit
        return float("inf") if limit is None else limit

    def record(self, group: str, name: str, measured: float, *, fault: str = "") -> None:
        """Add a measured number under the gate ``name``; a failure says ``fault`` after the gate's reason."""
        gate = self.gates[name]
        number = finite_or_none(float(measured))
        if gate.comparison == "<=" and number == 0:
            fault = ""  # nothing was found
        status = judge(number, gate.comparison, gate.limit)
        self._add(group, gate, status, number, explained(status, gate.reason, fault), fault)

    def add_to_failed(self, names: Collection[str], words: str) -> None:
        """Say more about the checks of these ``names`` that failed: what only a look at all of them tells."""
        for position, check in enumerate(self.checks):
            if check.name in names and check.status == "failed":
                fault = f"{check.fault}; {words}" if check.fault else words
                reason = explained(check.status, self.gates[check.name].reason, fault)
                self.checks[position] = dataclasses.replace(check, fault=fault, reason=reason)

    def not_applicable(self, group: str, name: str, reason: str) -> None:
        """Add the gate ``name`` as one that this file gives nothing to measure for."""
        self._add(group, self.gates[name], "not_applicable", None, reason)

    def _add(
        self, group: str, gate: Gate, status: Status, measured: float | None, reason: str, fault: str = ""
    ) -> None:
        check = Check(gate.name, group, status, measured, gate.limit, gate.comparison, gate.unit, reason, fault)
        self.checks.append(check)


def explained(status: Status, reason: str, fault: str) -> str:
    """Return why the gate exists and, where it failed, what was found."""
    return f"{reason}; {fault}" if status == "failed" and fault else reason
