"""The guard's comparison, on records made up here; nothing is timed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import check
from benchmarks.machine import machine


def _ratio(median: float, width: float = 0.0, **more: Any) -> dict[str, Any]:
    return {
        "ratio": "aps/lpf",
        "median": median,
        "lower_quartile": median - width / 2,
        "upper_quartile": median + width / 2,
        **more,
    }


def _document(*ratios: dict[str, Any], setting: str = "net:32:1", **more: Any) -> dict[str, Any]:
    entry = {"setting": setting, "runtime": "onnxruntime", "seconds": {}, "ratios": list(ratios)}
    return {**machine(), "measured": [entry], **more}


@pytest.mark.parametrize(
    ("kept", "new", "is_worse"),
    [
        (_ratio(1.0, 0.1), _ratio(1.09, 0.02), False),
        (_ratio(1.0, 0.1), _ratio(1.11, 0.02), True),
        (_ratio(1.0, 0.02), _ratio(1.11, 0.2), False),  # the new measurement is the uncertain one
        (_ratio(1.0, 0.1), _ratio(0.5), False),  # faster
        (_ratio(1.0), _ratio(1.015), False),  # within what is always allowed
        (_ratio(1.0), _ratio(1.03), True),
        (_ratio(1.3, 0.1, better="higher"), _ratio(1.15, better="higher"), True),
        (_ratio(1.3, 0.1, better="higher"), _ratio(1.6, better="higher"), False),
        (_ratio(1.3, 0.1, better="lower"), _ratio(1.15, better="lower"), False),
    ],
)
def test_worse_is_what_grew_by_more_than_the_spread(kept: dict[str, Any], new: dict[str, Any], is_worse: bool) -> None:
    (verdict,) = check.compare(_document(kept), _document(new))
    assert verdict.is_worse is is_worse
    assert (verdict.kept, verdict.new) == (kept["median"], new["median"])


def test_only_ratios_in_both_are_judged() -> None:
    kept = _document(_ratio(1.0), _ratio(2.0, ratio="aps/strided"))
    new = _document(_ratio(9.0, ratio="aps_custom_op/lpf"), _ratio(2.0, ratio="aps/strided"))
    assert [verdict.key for verdict in check.compare(kept, new)] == [("net:32:1", "onnxruntime", "aps/strided")]


def test_nothing_in_common_is_no_pass() -> None:
    with pytest.raises(ValueError, match="keep them first"):
        check.compare(_document(_ratio(1.0)), _document(_ratio(1.0), setting="other:32:1"))


def test_of_start_up_the_ratios_are_judged_and_the_seconds_are_not() -> None:
    rows = [{"what": "predict / bare", "unit": "ratio", **_ratio(1.2)}, {"what": "help", "unit": "s", **_ratio(0.1)}]
    assert list(check.ratios_of({"measured": rows})) == [("predict / bare", "", "")]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(check, "RESULTS_FOLDER", tmp_path)
    path = tmp_path / "startup.json"
    path.write_text(json.dumps(_document(_ratio(1.0, 0.1))))
    return path


def _measure(monkeypatch: pytest.MonkeyPatch, **documents: dict[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def measured(name: str, arguments: tuple[str, ...]) -> dict[str, Any]:
        asked.append((name, tuple(arguments)))
        return documents[name]

    monkeypatch.setattr(check, "_measured", measured)
    return asked


def test_the_exit_code_says_whether_something_got_worse(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = kept.read_bytes()
    _measure(monkeypatch, startup=_document(_ratio(1.05)))
    assert check.main(["--only", "startup"]) == 0
    assert "WORSE" not in capsys.readouterr().out
    _measure(monkeypatch, startup=_document(_ratio(1.3)))
    assert check.main(["--only", "startup"]) == 1
    assert "WORSE" in capsys.readouterr().out
    assert kept.read_bytes() == before


def test_the_default_is_a_short_part_and_full_is_all(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _measure(monkeypatch, startup=_document(_ratio(1.0)))
    check.main(["--only", "startup"])
    check.main(["--only", "startup", "--full"])
    assert asked == [("startup", check.SHORT["startup"]), ("startup", ())]


def test_another_processor_is_not_judged(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept.write_text(json.dumps({**_document(_ratio(1.0)), "processor": "an abacus"}))
    asked = _measure(monkeypatch, startup=_document(_ratio(9.0)))
    assert check.main(["--only", "startup"]) == 2
    assert not asked and "kept on an abacus" in capsys.readouterr().out
    assert check.main(["--only", "startup", "--any-machine"]) == 1


def test_what_is_not_kept_is_no_pass(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _measure(monkeypatch, startup=_document(_ratio(1.0)))
    assert check.main(["--only", "growth", "startup"]) == 2
    assert "growth: nothing is kept" in capsys.readouterr().out
    # Something worse is reported whatever else could not be judged.
    _measure(monkeypatch, startup=_document(_ratio(5.0)))
    assert check.main(["--only", "startup", "growth"]) == 1


def test_the_short_settings_are_among_those_that_are_kept() -> None:
    from benchmarks import layers, networks

    for module, name in ((networks, "networks"), (layers, "layers")):
        options = check.SHORT[name]
        chosen = options[options.index("--settings") + 1 : options.index("--runtimes")]
        assert chosen and set(chosen) <= set(module.SETTINGS)


@pytest.mark.parametrize(("second", "code"), [(1.0, 0), (1.4, 1)])
def test_what_is_worse_is_measured_again_and_fails_only_if_it_is_worse_again(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], second: float, code: int
) -> None:
    kept.write_text(json.dumps(_document(_ratio(1.0), _ratio(1.0, ratio="other"))))
    documents = iter(
        [
            _document(_ratio(1.3), _ratio(1.0, ratio="other")),
            _document(_ratio(second), _ratio(1.3, ratio="other")),  # the other one was well at first
        ]
    )
    monkeypatch.setattr(check, "_measured", lambda name, arguments: next(documents))
    assert check.main(["--only", "startup"]) == code
    assert next(documents, None) is None
    shown = capsys.readouterr().out
    assert "once more" in shown and shown.count("WORSE") == 1 + code
