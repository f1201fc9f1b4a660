"""A certificate as JUnit XML, which every CI system shows: one test case per gate."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from aps_deploy.files import write_text
from aps_deploy.verification.certificate import Certificate, Check

# What XML 1.0 has no character for, escaped or not; names of graph nodes may hold anything.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(certificate: Certificate) -> str:
    """Return the certificate as JUnit XML.

    A gate that failed is a failure with its sentence as the message, one that does not apply is skipped with the
    reason, and one that is only reported passes and says its number. A certificate that fails although no gate did
    (nothing was measured) has a failing case ``verdict``.
    """
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        root, "testsuite", name=_text(f"aps-deploy verify {certificate.file['name']}"), errors="0", time="0"
    )
    # JUnit's time stamps have no zone; ours are in UTC.
    suite.set("timestamp", _text(certificate.created.removesuffix("+00:00")))
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(certificate).items():
        ElementTree.SubElement(properties, "property", name=name, value=_text(value))
    for check in certificate.checks:
        _add_case(suite, check)
    if not certificate.passed and not certificate.failed_checks:
        case = ElementTree.SubElement(suite, "testcase", classname="verify", name="verdict", time="0")
        ElementTree.SubElement(case, "failure", message="no gate was measured and passed", type="gate")
    for attribute, tag in (("tests", "testcase"), ("failures", "testcase/failure"), ("skipped", "testcase/skipped")):
        suite.set(attribute, str(len(suite.findall(tag))))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def save_junit(certificate: Certificate, path: str | os.PathLike[str]) -> Path:
    """Write the certificate as JUnit XML, atomically, and return its path.

    Raises:
        InputError: the folder does not exist.
        ApsError: the disk is full or the folder cannot be written.
    """
    write_text(path, junit_xml(certificate))
    return Path(path)


def _properties(certificate: Certificate) -> dict[str, str]:
    return {
        "file.sha256": certificate.file["sha256"],
        "reference.sha256": certificate.reference["sha256"] or "none",
        "runtime": certificate.environment["runtime"],
        "device": certificate.environment["device"],
        "images": str(certificate.data["num_images"]),
        "shifts": certificate.shift_set["description"],
    }


def _add_case(suite: ElementTree.Element, check: Check) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", classname=_text(f"verify.{check.group}"), name=_text(check.name), time="0"
    )
    sentence = _text(check.sentence())
    if check.status == "failed":
        failure = ElementTree.SubElement(case, "failure", message=sentence, type="gate")
        failure.text = sentence
    elif check.status == "not_applicable":
        ElementTree.SubElement(case, "skipped", message=_text(check.reason))
    else:
        ElementTree.SubElement(case, "system-out").text = f"{check.status}: {sentence}"


def _text(value: str) -> str:
    return _NO_XML.sub("�", value)
