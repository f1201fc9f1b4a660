"""How a benchmark reads its settings, and how it ends when the user's are wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aps_deploy.errors import ApsError, InputError
from benchmarks import kernel_counts, networks, serving
from benchmarks.layer_alone import LayerSetting
from benchmarks.reporting import parse_setting, run_command


def test_a_setting_is_a_name_and_numbers() -> None:
    assert parse_setting("resnet18_aps3:224:8", "NAME:SIDE:BATCH") == ("resnet18_aps3", [224, 8])
    assert networks.Setting.parse("resnet18_aps3:224:8") == networks.Setting("resnet18_aps3", 224, 8)
    assert serving.Setting.parse("resnet20_aps3:32:0").threads == 0


@pytest.mark.parametrize(
    ("parse", "text", "words"),
    [
        (networks.Setting.parse, "resnet18_aps3:224", "resnet18_aps3:224; accepted is NAME:SIDE:BATCH"),
        (networks.Setting.parse, "resnet18_aps3:large:8", "resnet18_aps3:large:8; accepted is NAME:SIDE:BATCH"),
        (networks.Setting.parse, "resnet18:224:8", "no network with APS, such as resnet18_aps3"),
        (serving.Setting.parse, "resnet18_aps3:224:-1", "accepted is NAME:SIDE:THREADS"),
        (LayerSetting.parse, "64x56x56", "64x56x56; accepted is CHANNELSxSIDExSIDE:BATCH"),
        (LayerSetting.parse, "64x56x28:1", "64x56x28:1; accepted is"),
        (LayerSetting.parse, "0x56x56:1", "0x56x56:1; accepted is"),
        (LayerSetting.parse, "64x56x56:1:s5", "64x56x56:1:s5; accepted is"),
        (LayerSetting.parse, "64x7x7:1", "sides of 7; a stride of 2 takes its multiples, such as 8"),
        (LayerSetting.parse, "64x56x56:1:s3", "sides of 56; a stride of 3 takes its multiples, such as 57"),
    ],
)
def test_other_settings_are_one_sentence(parse: Callable[[str], object], text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse(text)


def test_what_the_user_caused_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["kernel_counts", "--settings", "resnet18_aps3"])
    monkeypatch.setattr(kernel_counts, "load_toolkit", lambda *args, **kwargs: None)
    with pytest.raises(SystemExit) as ended:
        run_command(kernel_counts.main)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == (
        "Error: the setting is resnet18_aps3; accepted is NAME:SIDE, with whole numbers after the name.\n"
    )


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [(ApsError("It failed."), 1, "Error: It failed.\n"), (KeyboardInterrupt(), 130, "Interrupted.\n")],
)
def test_other_endings(raised: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise raised

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == code and capsys.readouterr().err == words


def test_a_bug_stays_a_bug_and_a_code_is_kept() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: 1)
    assert ended.value.code == 1
