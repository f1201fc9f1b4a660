"""What the commands print with."""

from __future__ import annotations

import pytest
from rich.table import Table

from aps_deploy.console import print_table
from aps_deploy.progress_bar import Progress

# A style, a tag that closes nothing, an emoji's name and an extra of pip, as names of files and reasons may hold them.
NAMES = ("net[bold].onnx", "d[/x].onnx", "net:apple:.onnx", "pip install 'aps-deploy[openvino]'")


@pytest.mark.parametrize("name", NAMES)
def test_tables_show_names_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(f"column {name}", title=f"title {name}", caption=f"caption {name}")
    table.add_row(f"cell {name}")
    print_table(table)
    shown = capsys.readouterr().out
    assert [part for part in ("column", "title", "caption", "cell") if f"{part} {name}" not in shown] == []


@pytest.mark.parametrize("name", NAMES)
def test_bars_show_titles_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(True) as progress:
        progress.start(name, 3, 0)
        progress.update(3, name)
    assert capsys.readouterr().err.count(name) >= 2
