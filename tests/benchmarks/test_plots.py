"""Pictures are drawn from records alone, the same bytes for the same record, and can be read on any ground."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import plots
from benchmarks.graph_costs import KINDS

NAMES = ("aps", "aps_gather", "aps_custom_op", "lpf", "strided", "authors")


def _entry(setting: str, **more: Any) -> dict[str, Any]:
    seconds = {name: {"median": 0.001 * (number + 1)} for number, name in enumerate(NAMES)}
    ratios = [{"ratio": "aps/lpf", "at_most": 1.1}]
    return {"setting": setting, "runtime": "onnxruntime", "seconds": seconds, "ratios": ratios, **more}


def _floor(network: str) -> dict[str, Any]:
    moved = dict.fromkeys(KINDS, 1_000_000)
    return {"setting": "net_aps3:32:4", "network": network, "bytes_moved": moved, "fewest_bytes": 3_000_000}


RECORDS: dict[str, list[dict[str, Any]]] = {
    "networks": [_entry("net_aps3:32:4"), _entry("net_aps3:32:4", runtime="torch")],
    "layers": [_entry("16x8x8:1"), _entry("16x8x8:16")],
    "growth": [_entry("16x8x8:1", dimension="batch", value=1), _entry("16x8x8:2", dimension="batch", value=2)],
    "floor": [_floor("lpf"), _floor("aps_custom_op")],
}


def test_every_result_with_a_picture_is_tried_here() -> None:
    assert set(RECORDS) == set(plots.PICTURES)


@pytest.mark.parametrize("name", RECORDS)
def test_the_picture_follows_from_the_record(name: str, tmp_path: Path) -> None:
    draw, record = plots.PICTURES[name], {"measured": RECORDS[name]}
    first = plots.save(draw, record, tmp_path / "first.svg").read_bytes()
    assert plots.save(draw, record, tmp_path / "second.svg").read_bytes() == first
    text = " ".join(ElementTree.fromstring(first).itertext())
    assert "fewest" in text if name == "floor" else "the authors' formulation" in text


def test_nothing_is_behind_the_picture(tmp_path: Path) -> None:
    content = plots.save(plots.layers, {"measured": RECORDS["layers"]}, tmp_path / "x.svg").read_text()
    assert "#ffffff" not in content and "#000000" not in content


def test_what_is_not_kept_is_named_and_the_rest_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "RESULTS_FOLDER", tmp_path)
    monkeypatch.setattr(plots, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["plots"])
    (tmp_path / "growth.json").write_text(json.dumps({"measured": RECORDS["growth"]}))
    plots.main()
    printed = capsys.readouterr().out
    assert "networks: nothing is kept" in printed and "performance-growth.svg" in printed
    assert [path.name for path in tmp_path.glob("*.svg")] == ["performance-growth.svg"]
