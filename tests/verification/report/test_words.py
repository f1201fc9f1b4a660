from __future__ import annotations

import math

import pytest

from aps_deploy.verification.report.words import magnitude, number, percent, scientific


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "not finite"), (0.0, "0"), (1234567.0, "1,234,567"), (0.25, "0.25"), (1e-4, "1e-4"), (1.2345e-7, "1.23e-7"),
     (-0.5, "-0.5"), (2.5e7 + 0.5, "2.5e7")],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 9, "0 %"),
        (9, 9, "100 %"),
        (1, 3, "33.33 %"),
        (1, 10**9, "0.01 %"),
        (10**9 - 1, 10**9, "99.99 %"),
        (0, 0, "–"),
    ],
)
def test_a_share_never_reads_as_all_or_nothing_when_it_is_not(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text


def test_magnitudes_are_short() -> None:
    assert [magnitude(value) for value in (0.0, 15.17, 0.25, 99.4, 100.0, 2.4e-7, math.inf)] == [
        "0", "15", "0.25", "99", "1e2", "2e-7", "∞",
    ]  # fmt: skip
    assert scientific(1.96e-7, 2) == "2e-7"
