"""Proof that a shipped file kept what the model promises: selections, logits, shift consistency, batches.

Everything is imported on first use: ``import aps_deploy.verification`` needs neither PyTorch nor onnx.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aps_deploy.verification.authors import (
        CIFAR_PROTOCOL,
        IMAGENET_PROTOCOL,
        PROTOCOLS,
        AuthorsConsistency,
        AuthorsProtocol,
        authors_consistency,
    )
    from aps_deploy.verification.certificate import Certificate, Check, certificate_path
    from aps_deploy.verification.consistency import Consistency, measure_consistency
    from aps_deploy.verification.gates import GATES, parse_gates, resolve_gates
    from aps_deploy.verification.judging import read_gates, rejudge
    from aps_deploy.verification.junit import junit_xml, save_junit
    from aps_deploy.verification.paths import judge_path, verify_path
    from aps_deploy.verification.probe.path import probe_path
    from aps_deploy.verification.probe.probing import probe_file
    from aps_deploy.verification.probe.result import ProbeFinding, ProbeResult, probe_table
    from aps_deploy.verification.report import report_html, save_report
    from aps_deploy.verification.shifts import ShiftSet, shift_set
    from aps_deploy.verification.table import certificate_table
    from aps_deploy.verification.verifying import verify
    from aps_deploy.verification.worst_case import WorstCase

_NAMES = {
    "authors": (
        "CIFAR_PROTOCOL",
        "IMAGENET_PROTOCOL",
        "PROTOCOLS",
        "AuthorsConsistency",
        "AuthorsProtocol",
        "authors_consistency",
    ),
    "certificate": ("Certificate", "Check", "certificate_path"),
    "consistency": ("Consistency", "measure_consistency"),
    "gates": ("GATES", "parse_gates", "resolve_gates"),
    "judging": ("read_gates", "rejudge"),
    "junit": ("junit_xml", "save_junit"),
    "paths": ("judge_path", "verify_path"),
    "probe.path": ("probe_path",),
    "probe.probing": ("probe_file",),
    "probe.result": ("ProbeFinding", "ProbeResult", "probe_table"),
    "report": ("report_html", "save_report"),
    "shifts": ("ShiftSet", "shift_set"),
    "table": ("certificate_table",),
    "verifying": ("verify",),
    "worst_case": ("WorstCase",),
}
_HOME_OF = {name: f"aps_deploy.verification.{module}" for module, names in _NAMES.items() for name in names}

__all__ = [
    "CIFAR_PROTOCOL",
    "GATES",
    "IMAGENET_PROTOCOL",
    "PROTOCOLS",
    "AuthorsConsistency",
    "AuthorsProtocol",
    "Certificate",
    "Check",
    "Consistency",
    "ProbeFinding",
    "ProbeResult",
    "ShiftSet",
    "WorstCase",
    "authors_consistency",
    "certificate_path",
    "certificate_table",
    "judge_path",
    "junit_xml",
    "measure_consistency",
    "parse_gates",
    "probe_file",
    "probe_path",
    "probe_table",
    "read_gates",
    "rejudge",
    "report_html",
    "resolve_gates",
    "save_junit",
    "save_report",
    "shift_set",
    "verify",
    "verify_path",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'aps_deploy.verification' has no attribute {name!r}")
