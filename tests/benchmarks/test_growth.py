"""The exponent is that of a power law; a short run leaves a whole result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import growth
from benchmarks.layer_alone import LayerSetting
from tests.threads import one_thread  # noqa: F401 (a fixture of this folder)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found(power: float) -> None:
    sizes = [1, 3, 8, 20]
    assert growth.slope(sizes, [7 * size**power for size in sizes]) == pytest.approx(power)


def test_every_value_fits_the_layer() -> None:
    for dimension, values in growth.VALUES.items():
        for value in values:
            setting = growth.dataclasses.replace(growth.AROUND, **{dimension: value})
            assert setting.side % setting.stride == 0


@pytest.mark.slow
def test_a_short_run_leaves_a_whole_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "growth.json"
    monkeypatch.setattr(growth, "RESULTS", result)
    monkeypatch.setattr(growth, "LEAST_S", 0.0)
    monkeypatch.setattr(growth, "AROUND", LayerSetting(channels=4, side=12, batch=1))
    monkeypatch.setattr(growth, "VALUES", {"batch": (1, 2), "stride": (3,)})
    monkeypatch.setattr(sys, "argv", ["growth", "--dimensions", "batch", "--rounds", "2", "--write"])
    growth.main()
    document = json.loads(result.read_text())
    assert [(entry["dimension"], entry["value"]) for entry in document["measured"]] == [("batch", 1), ("batch", 2)]
    assert set(document["exponents"]["batch"]) == set(growth.NAMES)
    assert "exponent of the cost" in capsys.readouterr().out
