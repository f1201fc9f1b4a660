from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.triton import checks
from tests.plugins.triton.drawn import cases
from tests.plugins.triton.maps import Case, drawn_case, drawn_settings, setting_name


@pytest.mark.parametrize(
    "check",
    [checks.check_choice, checks.check_take, checks.check_select, checks.check_neighbours, checks.check_gradient],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_property(check: Callable[[Case], None]) -> None:
    @settings(deadline=None, max_examples=8, database=None)
    @given(cases())
    def holds(case: Case) -> None:
        check(case)

    holds()


@settings(deadline=None, max_examples=10, database=None)
@given(cases(), st.integers(0, 40), st.integers(0, 40))
def test_shift(case: Case, down: int, right: int) -> None:
    checks.check_shift(case, down, right)


@pytest.mark.parametrize("setting", drawn_settings(3, most_channels=2, most_steps=3), ids=setting_name)
def test_what_a_gpu_is_asked_of_maps_that_nobody_chose(setting: dict[str, Any]) -> None:
    checks.check_all(drawn_case(**setting), [(1, 0), (setting["shape"][2] - 1, setting["shape"][3] // 2)])
