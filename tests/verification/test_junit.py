from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from aps_deploy.errors import InputError
from aps_deploy.verification.certificate import Certificate, Check
from aps_deploy.verification.junit import junit_xml, save_junit
from tests.verification.samples import bare_certificate, make_certificate


def _suite(certificate: Certificate) -> ElementTree.Element:
    root = ElementTree.fromstring(junit_xml(certificate).encode())
    assert root.tag == "testsuites"
    (suite,) = root
    return suite


def test_one_case_per_gate(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    suite = _suite(certificate)
    cases = {case.attrib["name"]: case for case in suite.findall("testcase")}
    assert list(cases) == [check.name for check in certificate.checks]
    for check in certificate.checks:
        failure, skipped = cases[check.name].find("failure"), cases[check.name].find("skipped")
        assert (failure is not None) == (check.status == "failed")
        assert (skipped is not None) == (check.status == "not_applicable")
        assert cases[check.name].attrib["classname"] == f"verify.{check.group}"
        if failure is not None:
            assert failure.attrib["message"] == failure.text == check.sentence()
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    statuses = [check.status for check in certificate.checks]
    assert counts == {
        "tests": len(statuses),
        "failures": 2,
        "errors": 0,
        "skipped": statuses.count("not_applicable"),
    }
    properties = {each.attrib["name"]: each.attrib["value"] for each in suite.iter("property")}
    assert properties["file.sha256"] == certificate.file["sha256"]


def test_nothing_measured_is_a_failure() -> None:
    suite = _suite(bare_certificate(Check("a", "file", "reported", 1.0, None, "<=", "x", "a reason")))
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("2", "1")
    assert suite.find("testcase[@name='verdict']/failure") is not None


def test_names_may_hold_anything() -> None:
    reason = 'node <a & "b">\x01\x00 ]]> \ud800 \U0001f600'
    certificate = bare_certificate(Check("a", "file", "failed", 1.0, 0.0, "<=", "x", reason))
    failure = _suite(certificate).find("testcase/failure")
    assert failure is not None
    assert 'node <a & "b">�� ]]> � \U0001f600' in failure.attrib["message"]


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    certificate = bare_certificate(Check("a", "file", "passed", 1.0, 2.0, "<=", "x", "a reason"))
    path = save_junit(certificate, tmp_path / "c.xml")
    assert ElementTree.parse(path).getroot().tag == "testsuites"
    with pytest.raises(InputError):
        save_junit(certificate, tmp_path / "none" / "c.xml")
    assert list(tmp_path.iterdir()) == [path]
