from __future__ import annotations

import pytest

from aps_deploy.errors import InputError
from aps_deploy.verification.gates import GATES, PRECISIONS, judge, parse_gates, resolve_gates
from aps_deploy.verification.ledger import Ledger


def test_the_defaults_of_the_design() -> None:
    gates = resolve_gates("fp32", "onnxruntime", "cpu")
    assert (gates["parity_atol"].limit, gates["parity_rtol"].limit) == (1e-4, 1e-3)
    assert gates["unexplained_selections"].limit == 0
    assert gates["top1_consistency"].limit == gates["identical_shifts"].limit == 100
    assert gates["identical_rows"].limit == 0
    half = resolve_gates("fp16", "onnxruntime", "cpu")
    assert (half["parity_atol"].limit, half["parity_rtol"].limit) == (1e-2, 1e-2)
    assert (half["parity_mean_abs"].limit, half["parity_cosine"].limit) == (1e-3, 0.999)
    integer = resolve_gates("int8", "onnxruntime", "cpu")
    assert (integer["parity_cosine"].limit, integer["accuracy_drop"].limit) == (0.99, 1)
    assert integer["parity_excess"].limit is None


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("runtime", "device", "gated"),
    [
        ("torch", "cpu", True),
        ("onnxruntime", "cpu", True),
        ("onnxruntime", "cuda", False),
        ("onnx-reference", "cpu", True),
    ],
)
def test_bit_identity_is_gated_where_it_is_promised(precision: str, runtime: str, device: str, gated: bool) -> None:
    limit = resolve_gates(precision, runtime, device)["identical_shifts"].limit
    assert limit == (100 if gated else None)


def test_every_gate_has_a_limit_for_every_precision_and_a_reason() -> None:
    for name, spec in GATES.items():
        assert set(spec.limits) == set(PRECISIONS), name
        assert len(spec.reason) > 20, name
        assert not spec.only_equivariant or set(spec.elsewhere) == set(PRECISIONS), name


def test_overrides_replace_and_relax() -> None:
    gates = resolve_gates("fp32", "onnxruntime", "cpu", {"top1_consistency": 95, "identical_shifts": None})
    assert gates["top1_consistency"].accepts(95)
    assert not gates["top1_consistency"].accepts(94.9)
    assert gates["identical_shifts"].accepts(0)
    assert gates["identical_shifts"].overridden
    assert not gates["parity_excess"].overridden


def test_a_gate_can_be_asked_for_where_it_is_not_the_default() -> None:
    gates = resolve_gates("fp32", "onnxruntime", "cuda", {"identical_shifts": 100})
    assert not gates["identical_shifts"].accepts(99)


def test_not_a_number_never_passes_a_limit() -> None:
    gates = resolve_gates("fp32", "onnxruntime", "cpu")
    assert not gates["top1_consistency"].accepts(float("nan"))
    assert not gates["parity_excess"].accepts(float("nan"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"top1_consistancy": 95}, "did you mean top1_consistency"),
        ({"top1_consistency": float("nan")}, "give a number"),
        ({"top1_consistency": True}, "give a number"),
    ],
)
def test_unknown_overrides_are_refused(overrides: dict[str, float | None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_gates("fp32", "onnxruntime", "cpu", overrides)


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="fp4"):
        resolve_gates("fp4", "onnxruntime", "cpu")
    assert resolve_gates(None, "onnxruntime", "cpu")["parity_atol"].limit == 1e-4


def test_parsing_overrides() -> None:
    assert parse_gates(["top1_consistency=95.5", "identical_shifts = off"]) == {
        "top1_consistency": 95.5,
        "identical_shifts": None,
    }
    for text in ("top1_consistency", "top1_consistency=much", "="):
        with pytest.raises(InputError, match="NAME=NUMBER"):
            parse_gates([text])


def test_the_ledger_turns_numbers_into_verdicts() -> None:
    ledger = Ledger(resolve_gates("fp32", "onnxruntime", "cuda"))
    ledger.record("parity", "parity_excess", 2.0, fault="worst at image 3")
    ledger.record("parity", "parity_mean_abs", 0.0)
    ledger.record("consistency", "identical_shifts", 12.0)
    ledger.record("consistency", "top1_consistency", float("nan"))
    ledger.not_applicable("parity", "accuracy_drop", "there are no labels")
    statuses = {check.name: check.status for check in ledger.checks}
    assert statuses == {
        "parity_excess": "failed",
        "parity_mean_abs": "passed",
        "identical_shifts": "reported",
        "top1_consistency": "failed",
        "accuracy_drop": "not_applicable",
    }
    assert "worst at image 3" in ledger.checks[0].reason
    assert ledger.checks[3].measured is None


def test_gates_that_decide_how_others_are_measured_have_no_number_of_their_own() -> None:
    deciding = {name for name, spec in GATES.items() if spec.parametrises}
    assert deciding == {"margin_cap", "parity_atol", "parity_rtol", "batch_atol", "batch_rtol"}
    for name in deciding:
        assert set(GATES[name].parametrises) <= set(GATES) - deciding


@pytest.mark.parametrize(
    ("measured", "comparison", "limit", "status"),
    [
        (1.0, "<=", 1.0, "passed"),
        (1.1, "<=", 1.0, "failed"),
        (99.0, ">=", 100.0, "failed"),
        (100.0, ">=", 100.0, "passed"),
        (None, "<=", 1.0, "failed"),
        (None, ">=", 1.0, "failed"),
        (float("nan"), ">=", 0.0, "failed"),
        (None, "<=", None, "reported"),
    ],
)
def test_judging(measured: float | None, comparison: str, limit: float | None, status: str) -> None:
    assert judge(measured, comparison, limit) == status


def test_what_was_found_is_kept_although_the_gate_accepts_it() -> None:
    ledger = Ledger(resolve_gates("fp32", "onnxruntime", "cpu", {"top1_consistency": 10}))
    ledger.record("consistency", "top1_consistency", 50.0, fault="worst at image 3")
    ledger.record("file", "missing_outputs", 0, fault="the file has no output ")
    accepted, perfect = ledger.checks
    assert (accepted.status, accepted.fault) == ("passed", "worst at image 3")
    assert "worst at image 3" not in accepted.reason
    assert perfect.fault == ""
