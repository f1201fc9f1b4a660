"""Which layers are advised to stay in float32."""

from __future__ import annotations

import math

import pytest

from aps_deploy.verification.certificate import Check
from aps_deploy.verification.localisation.advice import LayerError, advised, shrink_factor


def _error(name: str, own: float, accumulated: float, precision: str = "fp16", *, share: float = 0.01) -> LayerError:
    return LayerError(name, name, precision, own, accumulated, own > share)


# Squares 16, 400 and 144 of 560 make 0.03.
ERRORS = [_error("a", 0.004, 0.004), _error("b", 0.02, 0.02), _error("c", 0.012, 0.03), _error("d", 0.0, 0.03)]


def test_the_worst_layers_are_kept_until_the_rest_fits() -> None:
    assert advised(ERRORS, 0.02) == ("b", "c")  # without b alone 0.016 is left, above 0.02 / sqrt(2)
    assert advised(ERRORS, 0.03) == ("b",)


def test_an_absolute_gate_may_ask_for_less_than_the_relative_limit() -> None:
    assert advised(ERRORS, 1.0, shrink=0.9) == ("b",)
    assert advised(ERRORS, 1.0, shrink=0.5) == ("b", "c")


def test_within_the_limit_those_beyond_their_share_are_kept() -> None:
    assert advised(ERRORS, 1.0) == ("b", "c")
    assert advised([_error("a", 0.004, 0.004)], 1.0) == ()


def test_nothing_is_advised_that_would_not_help() -> None:
    assert advised([], 0.01) == ()
    assert advised([_error("a", 0.5, 0.5, "fp32")], 0.01) == ()
    assert advised([LayerError("a", "a", "fp16", None, None, True)], 0.01) == ()


@pytest.mark.parametrize(
    ("name", "measured", "tolerance", "factor"),
    [
        ("parity_excess", 4.0, 1.0, 0.25),
        ("parity_mean_abs", 0.002, 0.001, 0.5),
        ("parity_cosine", 0.96, 0.99, math.sqrt(0.01 / 0.04)),
        ("parity_cosine", None, 0.99, math.inf),
        ("unexplained_selections", 3.0, 0.0, math.inf),
    ],
)
def test_how_much_smaller_the_error_must_be(name: str, measured: float | None, tolerance: float, factor: float) -> None:
    passed = Check("parity_excess", "parity", "passed", 0.1, 1.0, "<=", "", "")
    failed = Check(name, "parity", "failed", measured, tolerance, "<=", "", "")
    assert shrink_factor([passed, failed]) == pytest.approx(factor)
