"""A declared table: the grid of runs that a TOML file asks for.

    title = "..."
    note = "..."                      # said above the table
    [train]                           # settings of `aps-deploy train` that all rows share
    recipe = "fast"
    [evaluate]
    protocols = ["cifar"]             # of `aps-deploy evaluate`
    shifts = "all"                    # tried on a sample of the test images
    shift_images = 256
    images = 2000                     # of the split; left out: all
    [augmentations.circular]          # settings of one kind of augmentation
    circular_data_aug = true
    [[grid]]                          # every combination is a row
    arch = ["resnet20"]
    sampler = ["strided", "lpf", "aps"]
    filter = [1, 3]                   # blur sizes of lpf and aps
    without = ["lpf1"]
    augmentation = ["none", "circular"]
    criterion = ["l2"]
    seed = [0, 1, 2]
    [[reported]]                      # measured by others, quoted beside our rows
    row = "cifar_resnet18_aps1"
    accuracy_percent = 94.2
    source = "..."

Imports no torch.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from aps_deploy.errors import InputError, known_name, near_matches
from aps_deploy.training.reproduction.kinds import check_entries
from aps_deploy.training.settings import TrainSettings
from aps_deploy.verification.authors import ProtocolName
from aps_deploy.verification.shifts import shift_set

TABLES = Path(__file__).with_name("tables")

SAMPLERS = ("strided", "lpf", "aps")
_FILE_KINDS: Mapping[str, Any] = {
    **{"title": str, "note": str, "train": dict, "evaluate": dict, "augmentations": dict},
    **{"grid": list[dict[str, Any]], "reported": list[dict[str, Any]]},
}
_GRID_KINDS: Mapping[str, Any] = {
    **{"arch": list[str], "sampler": list[str], "filter": list[int], "without": list[str]},
    **{"augmentation": list[str], "criterion": list[str], "seed": list[int]},
}
_EVALUATE: dict[str, Any] = {
    "protocols": ["cifar"],
    "shifts": "group",
    "shift_images": 256,
    "split": "test",
    "images": None,
}
_EVALUATE_KINDS: Mapping[str, Any] = {
    **{"protocols": list[str], "shifts": str | int, "shift_images": int, "images": int},
    "split": Literal["auto", "test", "val", "train"],
}
# The row says these, or the person who runs it.
_NOT_SHARED = frozenset(
    [
        *("arch", "seed", "criterion", "data", "out_dir", "resume", "evaluate", "filter_size"),
        *("device", "workers", "progress"),
    ]
)


@dataclass(frozen=True)
class Row:
    """One run of a table.

    Attributes:
        network: Architecture of the registry.
        augmentation: Name of the kind of augmentation.
        criterion: Norm that selects; None where nothing is selected.
        seed: Seed of the run.
        settings: All settings of the training but the folders, as fields of `TrainSettings`.
    """

    network: str
    augmentation: str
    criterion: str | None
    seed: int
    settings: Mapping[str, Any]

    @property
    def group(self) -> tuple[str, str, str | None]:
        """What rows share that differ in nothing but the seed."""
        return self.network, self.augmentation, self.criterion

    @property
    def name(self) -> str:
        """Name of the row's folder."""
        parts = [self.network]
        if self.augmentation != "none":
            parts.append(self.augmentation)
        if self.criterion not in (None, "l2"):
            parts.append(str(self.criterion))
        return "-".join([*parts, f"seed{self.seed}"])

    def train_settings(self) -> TrainSettings:
        """Return the settings of the training, in folders that stand for any."""
        return TrainSettings(**self.settings, data=Path("DATA"), out_dir=Path(self.name))


@dataclass(frozen=True)
class Reported:
    """What somebody else reports of a network: quoted, never mixed with what was measured here."""

    row: str
    source: str
    accuracy_percent: float | None = None
    consistency_percent: float | None = None


@dataclass(frozen=True)
class Table:
    """A declared table.

    Attributes:
        path: The file.
        name: The file's name without its suffix.
        title: Heading on the page.
        note: Sentences under it; may be empty.
        rows: The runs, in their order.
        protocols: Protocols of `aps-deploy evaluate`.
        evaluate: The other settings of `EvaluateSettings`.
        reported: Numbers of others.
        text: The declaration itself.
    """

    path: Path
    name: str
    title: str
    note: str
    rows: tuple[Row, ...]
    protocols: tuple[ProtocolName, ...]
    evaluate: Mapping[str, Any]
    reported: tuple[Reported, ...]
    text: str

    def evaluation_of(self, protocol: str) -> dict[str, Any]:
        """Return the settings of the evaluation by a protocol; the shifts are tried once, with the first."""
        chosen = {key: value for key, value in self.evaluate.items() if value is not None}
        return chosen if protocol == self.protocols[0] else {**chosen, "shifts": "none"}


def find_table(name: str) -> Path:
    """Return the file of a table: a path, or the name of one that comes with the package.

    Raises:
        InputError: there is neither.
    """
    known = {path.stem: path for path in sorted(TABLES.glob("*.toml"))}
    if name in known:
        return known[name]
    if Path(name).is_file():
        return Path(name)
    raise InputError(
        f"table {name} does not exist{near_matches(name, known)}; give a file or one of {', '.join(known)}."
    )


def read_table(path: Path) -> Table:
    """Return the table that a file declares.

    Raises:
        InputError: it is no TOML, or asks for what there is not; the message names the entry.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a table ({error}).") from error
    check_entries(document, _FILE_KINDS, path, "the file")
    for key in ("title", "grid"):
        if key not in document:
            raise InputError(f"{path} has no {key}; a table needs a title and at least one [[grid]].")
    shared, declared = document.get("train", {}), document.get("augmentations", {})
    check_entries(declared, dict.fromkeys(declared, dict), path, "[augmentations]")
    augmentations: dict[str, dict[str, Any]] = {"none": {}, **declared}
    for where, settings in {"[train]": shared, **{f"[augmentations.{k}]": v for k, v in declared.items()}}.items():
        check_entries(settings, _shared_kinds(), path, where)
    for entry in document.get("reported", []):
        check_entries(entry, get_type_hints(Reported), path, "[[reported]]", needed=("row", "source"))
    rows = [row for grid in document["grid"] for row in _rows(grid, shared, augmentations, path)]
    repeated = [row.name for number, row in enumerate(rows) if row.name in {other.name for other in rows[:number]}]
    if repeated or not rows:
        raise InputError(f"{path} declares {repeated[0] + ' twice' if repeated else 'no row'}; each row is one run.")
    evaluate = _evaluation(document.get("evaluate", {}), path)
    return Table(
        path=path,
        name=path.stem if path.stem != "table" else path.parent.name,
        title=document["title"],
        note=document.get("note", ""),
        rows=tuple(rows),
        protocols=evaluate.pop("protocols"),
        evaluate=evaluate,
        reported=tuple(Reported(**entry) for entry in document.get("reported", [])),
        text=text,
    )


def _shared_kinds() -> dict[str, Any]:
    return {name: kind for name, kind in get_type_hints(TrainSettings).items() if name not in _NOT_SHARED}


def _evaluation(declared: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the settings of the evaluation, those left out filled in."""
    check_entries(declared, _EVALUATE_KINDS, path, "[evaluate]")
    evaluate = {**_EVALUATE, **declared}
    for key in ("shift_images", "images"):
        if evaluate[key] is not None and evaluate[key] < 1:
            raise InputError(f"{path}: {key} of [evaluate] is {evaluate[key]}; it must be at least 1.")
    if evaluate["shifts"] != "none":
        try:
            shift_set(evaluate["shifts"], height=2, width=2)  # what it names does not depend on the size
        except InputError as error:
            raise InputError(f"{path}: [evaluate]: {error}") from error
    return {**evaluate, "protocols": _protocols(evaluate["protocols"], path)}


def _protocols(names: Sequence[str], path: Path) -> tuple[ProtocolName, ...]:
    if not names:
        raise InputError(f"{path}: [evaluate] names no protocol; choose from {', '.join(get_args(ProtocolName))}.")
    return tuple(known_name(name, get_args(ProtocolName), f"protocol in {path}") for name in names)


def _rows(
    grid: Mapping[str, Any], shared: Mapping[str, Any], augmentations: Mapping[str, Mapping[str, Any]], path: Path
) -> list[Row]:
    check_entries(grid, _GRID_KINDS, path, "[[grid]]")
    for key in ("arch", "sampler"):
        if not grid.get(key):
            raise InputError(f"{path}: a [[grid]] names no {key}.")
    samplers = [known_name(name, SAMPLERS, f"sampler in {path}") for name in grid["sampler"]]
    rows = []
    for arch, sampler in itertools.product(grid["arch"], samplers):
        for network, criterion in _networks(arch, sampler, grid):
            for augmentation, seed in itertools.product(grid.get("augmentation", ["none"]), grid.get("seed", [0])):
                known_name(augmentation, tuple(augmentations), f"augmentation in {path}")
                settings = {**shared, **augmentations[augmentation], "arch": network, "seed": seed}
                if criterion not in (None, "l2"):
                    settings["criterion"] = criterion
                row = Row(network, augmentation, criterion, seed, settings)
                try:
                    row.train_settings()
                except InputError as error:
                    raise InputError(f"{path}: row {row.name}: {error}") from error
                rows.append(row)
    return rows


def _networks(arch: str, sampler: str, grid: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Return the networks of one architecture and sampler, each with its criterion."""
    if sampler == "strided":
        return [(arch, None)]
    sizes: Sequence[int] = [
        size for size in grid.get("filter", [3]) if f"{sampler}{size}" not in grid.get("without", [])
    ]
    criteria = grid.get("criterion", ["l2"]) if sampler == "aps" else [None]
    return [(f"{arch}_{sampler}{size}", criterion) for size, criterion in itertools.product(sizes, criteria)]
