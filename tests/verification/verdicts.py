"""What a certificate says, in the form that tests ask for."""

from __future__ import annotations

from aps_deploy.verification import Certificate


def failed_gates(certificate: Certificate) -> dict[str, str]:
    """Return the reason of every failed gate by name, of a certificate that must not have passed."""
    assert not certificate.passed
    assert certificate.exit_code == 1
    return {check.name: check.reason for check in certificate.failed_checks}


def assert_passed(certificate: Certificate) -> None:
    """Assert that nothing failed and that the logits kept their bits under every shift."""
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    assert certificate.check("identical_shifts").measured == 100
