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
        ("seed = [0, 1]", "seed = 3", r"small.toml: seed of \[\[grid\]\] is 3; it must be a list of whole numbers"),
        ("seed = [0, 1]", 'seed = ["x"]', r"seed of \[\[grid\]\] is \['x'\]; it must be a list of whole numbers"),
        ("seed = [0, 1]", "seed = [true]", r"seed of \[\[grid\]\] is \[True\]; it must be a list of whole numbers"),
        ("seed = [0, 1]", "seed = [-1]", "small.toml: row resnet20-seed-1: --seed is -1; it must be at least 0"),
        ("filter = [1, 3]", "filter = 3", r"filter of \[\[grid\]\] is 3; it must be a list of whole numbers"),
        (
            'arch = ["resnet20"]',
            'arch = "resnet20"',
            r"arch of \[\[grid\]\] is 'resnet20'; it must be a list of strings",
        ),
        ("[[grid]]", "[grid]", r"grid of the file is .*; it must be a list of tables"),
        ('title = "A table"', "title = 3", "title of the file is 3; it must be a string"),
        ("epochs = 2", 'epochs = "five"', r"epochs of \[train\] is 'five'; it must be a whole number"),
        ("epochs = 2", "epochs = 2.5", r"epochs of \[train\] is 2.5; it must be a whole number"),
        ("epochs = 2", "epochs = 0", "small.toml: row resnet20-seed0: --epochs is 0; it must be at least 1"),
        ("epochs = 2", 'device = "cpu"', r"\[train\] has an unknown entry 'device'"),
        ("epochs = 2", 'learning_rate = "0.1"', r"learning_rate of \[train\] is '0.1'; it must be a number"),
        ("epochs = 2", "flip = 1", r"flip of \[train\] is 1; it must be true or false"),
        ('"fast"', '"fats"', r"recipe of \[train\] is 'fats'; it must be one of cifar10, imagenet, .*fast"),
        ('[train]\nrecipe = "fast"\nepochs = 2', "train = 5", "train of the file is 5; it must be a table"),
        ("[train]", "evaluate = 5\n[train]", "evaluate of the file is 5; it must be a table"),
        ("[augmentations.circular]\ncircular_data_aug = true", "", "unknown augmentation"),
        (
            "[augmentations.circular]",
            "[augmentations]",
            r"circular_data_aug of \[augmentations\] is True; it must be a t",
        ),
        ("[[grid]]", '[evaluate]\nshifts = "al"\n[[grid]]', r"small.toml: \[evaluate\]: shifts 'al' are not known"),
        ("[[grid]]", "[evaluate]\nshifts = 0\n[[grid]]", "shifts 0 are not known; give group, all or a number"),
        (
            "[[grid]]",
            "[evaluate]\nshifts = []\n[[grid]]",
            r"shifts of \[evaluate\] is \[\]; it must be a string or a w",
        ),
        (
            "[[grid]]",
            '[evaluate]\nshift_images = "many"\n[[grid]]',
            r"shift_images of \[evaluate\] is 'many'; it must be a whole number",
        ),
        ("[[grid]]", "[evaluate]\nimages = 0\n[[grid]]", r"images of \[evaluate\] is 0; it must be at least 1"),
        (
            "[[grid]]",
            '[evaluate]\nprotocols = "cifar"\n[[grid]]',
            r"protocols of \[evaluate\] is 'cifar'; it must be a l",
        ),
        ("[[grid]]", '[[reported]]\nrow = "x"\n[[grid]]', r"\[\[reported\]\] has no source; give it a string"),
        (
            "[[grid]]",
            '[[reported]]\nrow = "x"\nsource = "y"\naccuracy = 3\n[[grid]]',
            r"\[\[reported\]\] has an unknown entry 'accuracy' \(did you mean accuracy_percent",
        ),
        (
            "[[grid]]",
            '[[reported]]\nrow = "x"\nsource = "y"\naccuracy_percent = "94 %"\n[[grid]]',
            r"accuracy_percent of \[\[reported\]\] is '94 %'; it must be a number",
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
