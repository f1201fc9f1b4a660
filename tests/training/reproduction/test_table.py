"""Declared grids become rows, and what a declaration asks for wrongly is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from aps_deploy.errors import InputError
from aps_deploy.models import network_spec
from aps_deploy.training.recipes import recipe_for
from aps_deploy.training.reproduction.table import TABLES, find_table, read_table
from aps_deploy.training.settings import TrainSettings

DECLARED = """
title = "A table"
[train]
recipe = "fast"
epochs = 2
[augmentations.circular]
circular_data_aug = true
[[grid]]
arch = ["resnet20"]
sampler = ["strided", "lpf", "aps"]
filter = [1, 3]
without = ["lpf1"]
augmentation = ["none", "circular"]
criterion = ["l2", "l1"]
seed = [0, 1]
"""


def declared(folder: Path, text: str = DECLARED) -> Path:
    path = folder / "small.toml"
    path.write_text(text)
    return path


def test_every_combination_is_a_row(tmp_path: Path) -> None:
    table = read_table(declared(tmp_path))
    networks = ["resnet20", "resnet20_lpf3", "resnet20_aps1", "resnet20_aps3"]
    assert list(dict.fromkeys(row.network for row in table.rows)) == networks
    # strided and lpf: 2 augmentations x 2 seeds; aps: x 2 criteria as well, for 2 filters.
    assert len(table.rows) == len({row.name for row in table.rows}) == 4 + 4 + 16
    by_name = {row.name: row for row in table.rows}
    row = by_name["resnet20_aps3-circular-l1-seed1"]
    assert dict(row.settings) == {
        "recipe": "fast", "epochs": 2, "circular_data_aug": True, "arch": "resnet20_aps3", "seed": 1, "criterion": "l1",
    }  # fmt: skip
    assert by_name["resnet20-seed0"].criterion is None and "criterion" not in by_name["resnet20_aps1-seed0"].settings


@pytest.mark.parametrize("path", sorted(TABLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_tables_of_the_package_can_be_run(path: Path) -> None:
    table = read_table(find_table(path.stem))
    for row in table.rows:
        settings = TrainSettings(**row.settings, data=Path("data"), out_dir=Path("out"))
        recipe_for(settings, network_spec(row.network).family)


def test_the_table_for_a_cpu_is_the_one_that_was_asked_for() -> None:
    table = read_table(find_table("cifar10-cpu"))
    assert [row.network for row in table.rows] == ["resnet20", "resnet20_lpf3", "resnet20_aps1", "resnet20_aps3"]
    assert all(row.seed == 0 and row.settings["epochs"] >= 5 for row in table.rows)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"strided"', '"stridden"', r"unknown sampler in .*'stridden' \(did you mean strided"),
        ("epochs = 2", "epoch = 2", r"\[train\] has an unknown entry 'epoch' \(did you mean epochs"),
        ("epochs = 2", 'data = "x"', r"\[train\] has an unknown entry 'data'"),
        ('"circular"]', '"circle"]', "unknown augmentation"),
        ("circular_data_aug", "circular", r"\[augmentations.circular\] has an unknown entry"),
        ("seed = [0, 1]", "seed = [0, 0]", "declares resnet20-seed0 twice"),
        ("seed = [0, 1]", "seed = []", "declares no row"),
        ('title = "A table"', "", "has no title"),
        ("[[grid]]", "[[grid]", "cannot be read as a table"),
        ('arch = ["resnet20"]', "", "names no arch"),
        (
            "[[grid]]",
            '[evaluate]\nprotocols = ["cifr"]\n[[grid]]',
            r"unknown protocol in .*'cifr' \(did you mean cifar",
        ),
        ("[[grid]]", "[evaluate]\nprotocols = []\n[[grid]]", r"\[evaluate\] names no protocol; choose from cifar, "),
    ],
)
def test_a_wrong_declaration(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_table(declared(tmp_path, DECLARED.replace(old, new)))


def test_an_unknown_table() -> None:
    with pytest.raises(InputError, match=r"table cifar10-cpus does not exist \(did you mean cifar10-cpu"):
        find_table("cifar10-cpus")
