"""A saved certificate judged by other limits: the same numbers, another verdict, and never a pass without a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aps_deploy.errors import InputError
from aps_deploy.files import sha256_of
from aps_deploy.verification.certificate import Certificate, Check
from aps_deploy.verification.gates import GATES
from aps_deploy.verification.judging import read_gates, rejudge
from aps_deploy.verification.paths import judge_path
from tests.verification.fakes import Images, corner, invariant
from tests.verification.samples import bare_certificate, make_certificate


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("changing"), corner)


@pytest.fixture(scope="module")
def unchanging(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("unchanging"), invariant)


def test_relaxed_limits_let_it_pass(changing: Certificate) -> None:
    assert {check.name for check in changing.failed_checks} == {"top1_consistency", "identical_shifts"}
    relaxed = rejudge(changing, {"top1_consistency": 1.0, "identical_shifts": None}, source="c.json", sha256="ab")
    assert relaxed.exit_code == 0
    assert relaxed.check("top1_consistency").status == "passed"
    assert relaxed.check("identical_shifts").status == "reported"
    assert relaxed.rejudged is not None
    assert (relaxed.rejudged["certificate"], relaxed.rejudged["sha256"]) == ("c.json", "ab")
    assert relaxed.overrides == relaxed.rejudged["overrides"] == {"top1_consistency": 1.0, "identical_shifts": None}
    assert relaxed.limits["top1_consistency"] == 1.0
    # What was found is not told as a failure any more; the numbers are those that were measured.
    assert relaxed.check("top1_consistency").reason == GATES["top1_consistency"].reason
    assert [check.measured for check in relaxed.checks] == [check.measured for check in changing.checks]
    assert relaxed.details == changing.details and relaxed.created == changing.created


def test_tighter_limits_fail_it_and_say_what_was_found(unchanging: Certificate) -> None:
    assert unchanging.passed
    strict = rejudge(unchanging, {"parity_excess": 0.0})
    assert strict.exit_code == 1
    assert "worst at image" in strict.check("parity_excess").reason


def test_there_and_back_again(changing: Certificate) -> None:
    names = ("top1_consistency", "identical_shifts")
    relaxed = rejudge(changing, dict.fromkeys(names))
    again = rejudge(relaxed, dict.fromkeys(names, 100.0))
    assert again.checks == changing.checks


def test_judging_equals_measuring_with_the_same_limits(tmp_path: Path) -> None:
    gates = {"top1_consistency": 60.0, "parity_mean_abs": 1e-9, "identical_shifts": None}
    measured = make_certificate(tmp_path, corner, gates=gates)
    assert rejudge(make_certificate(tmp_path, corner), gates).checks == measured.checks


def test_a_number_that_is_not_finite_fails_every_limit(tmp_path: Path) -> None:
    def never(images: Images) -> np.ndarray:
        return np.full((len(images), 3), np.nan, np.float32)

    certificate = make_certificate(tmp_path, never)
    assert certificate.check("parity_excess").measured is None
    assert rejudge(certificate, {"parity_excess": 1e300}).check("parity_excess").status == "failed"
    assert rejudge(certificate, {"parity_excess": None}).check("parity_excess").status == "reported"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"top1_consistancy": 95}, "did you mean top1_consistency"),
        ({"top1_consistency": float("nan")}, "give a number"),
        ({"parity_atol": 1.0}, "decides how parity_excess, clear_top1_changes is measured"),
        ({"margin_cap": None}, "decides how unexplained_selections is measured"),
        ({"missing_outputs": 3}, "no measurement for the gate missing_outputs"),
        ({"accuracy_drop": None}, "there are no labels"),
        ({"accuracy_drop": 50}, "there are no labels"),
    ],
)
def test_what_was_not_measured_cannot_be_judged(overrides: dict[str, float | None], message: str) -> None:
    absent = Check("accuracy_drop", "parity", "not_applicable", None, 1.0, "<=", "points", "there are no labels")
    present = Check("top1_consistency", "consistency", "passed", 100.0, 100.0, ">=", "%", "a reason")
    certificate = bare_certificate(absent, present)
    with pytest.raises(InputError, match=message) as caught:
        rejudge(certificate, overrides)
    assert caught.value.exit_code == 2


def test_a_gate_that_decides_others_may_stay_as_it_was(unchanging: Certificate) -> None:
    assert rejudge(unchanging, {"parity_atol": 1e-4}).passed


def test_a_certificate_without_evidence_does_not_pass_by_taking_gates_away() -> None:
    certificate = bare_certificate(Check("top1_consistency", "consistency", "failed", None, 100.0, ">=", "%", "x"))
    assert not rejudge(certificate, {"top1_consistency": None}).passed


def test_limits_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "gates.toml"
    path.write_text('# ours\ntop1_consistency = 99.5\nmissing_outputs = 0\naccuracy_drop = "off"\n')
    assert read_gates(path) == {"top1_consistency": 99.5, "missing_outputs": 0.0, "accuracy_drop": None}
    path.write_text("")
    assert read_gates(path) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top1_consistency 95", "not a TOML file"),
        ("top1_consistancy = 95", "did you mean top1_consistency"),
        ('top1_consistency = "much"', "give a number"),
        ("top1_consistency = true", "give a number"),
        ("top1_consistency = nan", "give a number"),
        ("[gates]\ntop1_consistency = 95", "gate gates is"),
        ("\x00", "not a TOML file"),
    ],
)
def test_other_files_hold_no_limits(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "gates.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_gates(path)
    assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="does not exist"):
        read_gates(tmp_path / "none.toml")


def test_by_path_everything_is_written(changing: Certificate, tmp_path: Path) -> None:
    source = changing.save(tmp_path / "c.json")
    outputs = {name: tmp_path / f"new.{name}" for name in ("json", "html", "xml")}
    gates = {"top1_consistency": 1.0, "identical_shifts": None}
    found = judge_path(source, gates=gates, output=outputs["json"], report=outputs["html"], junit=outputs["xml"])
    assert found.passed
    assert Certificate.from_json(outputs["json"]) == found
    assert found.rejudged is not None and found.rejudged["sha256"] == sha256_of(source)
    assert "aps-deploy verify --from c.json --gate top1_consistency=1 --gate identical_shifts=off" in outputs[
        "html"
    ].read_text(encoding="utf-8")
    assert outputs["xml"].read_text(encoding="utf-8").startswith("<?xml")
    assert Certificate.from_json(source) == changing


def test_without_limits_the_verdict_stays_and_nothing_is_said_to_be_judged_anew(
    changing: Certificate, tmp_path: Path
) -> None:
    source = changing.save(tmp_path / "c.json")
    assert judge_path(source) == changing
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("name", ["c.json", "link.json"])
def test_the_certificate_itself_is_not_overwritten(name: str, changing: Certificate, tmp_path: Path) -> None:
    source = changing.save(tmp_path / "c.json")
    (tmp_path / "link.json").symlink_to(source)
    before = source.read_bytes()
    with pytest.raises(InputError, match="it is the certificate that is judged"):
        judge_path(source, gates={"top1_consistency": 1.0}, output=tmp_path / name)
    assert source.read_bytes() == before
