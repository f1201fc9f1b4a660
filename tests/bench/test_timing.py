"""How runs are interleaved and summed up."""

from __future__ import annotations

import pytest

from aps_deploy.bench.timing import interleaved, ratios, spread


def test_the_order_turns_and_everything_runs_once_a_round() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}  # type: ignore[misc]
    seconds = interleaved(calls, rounds=3, warm_up=1, first=1)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_short_call_runs_several_times_in_its_turn_and_its_mean_counts() -> None:
    clock = [0.0]
    durations = {"short": 0.25, "long": 2.0}
    calls = {name: (lambda name=name: clock.__setitem__(0, clock[0] + durations[name])) for name in durations}  # type: ignore[misc]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aps_deploy.bench.timing.time.perf_counter", lambda: clock[0])
        seconds = interleaved(calls, rounds=2, warm_up=1, least_s=1.0)
    assert seconds == {"short": [0.25, 0.25], "long": [2.0, 2.0]}
    # Beforehand 1 and 1; a turn of the short one is 4 and one that is not counted, of the long one a single run.
    assert clock[0] == 0.25 + 2.0 + 2 * (5 * 0.25 + 2.0)


def test_spread_and_ratios() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    found = spread([4.0, 1.0, 2.0, 3.0, 5.0])
    assert (found["smallest"], found["lower_quartile"], found["median"], found["upper_quartile"], found["largest"]) == (
        1.0, 2.0, 3.0, 4.0, 5.0,
    )  # fmt: skip
    assert spread([7.0])["upper_quartile"] == 7.0
