"""The page of results, written from what is kept beside it; rows that were not run say so."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from aps_deploy.files import write_text
from aps_deploy.training.reproduction.plots import PLOT_FILE
from aps_deploy.training.reproduction.records import TABLE_FILE, Record, evaluate_command, read_record, train_command
from aps_deploy.training.reproduction.table import Row, Table, read_table
from aps_deploy.verification.authors import PROTOCOLS

_HEAD = """# Results

Measured by this project with `aps-deploy reproduce TABLE --data DATA`, which writes this page from the files in
`{folder}` and nothing else: of every row that was run, its metrics file and `row.json` (settings, evaluations,
versions, processor) are kept there. DATA is the folder of the images. Accuracies are those of the checkpoint with the
best accuracy on held-out training images, or of the last epoch where none are held out; never one chosen by the test
images. Where a row has several seeds, the mean and the sample standard deviation are given.
"""
_NOT_RUN = "not run"


def write_page(page: Path, results_dir: Path) -> list[Table]:
    """Write the page of all tables below a folder; return the tables.

    Raises:
        InputError: what is kept does not belong together, see `read_record`.
        ApsError: the page cannot be written.
    """
    tables = [read_table(path) for path in sorted(results_dir.glob(f"*/{TABLE_FILE}"))]
    parts = [_HEAD.format(folder=results_dir.name)]
    for table in tables:
        parts.append(_section(table, records_of(table, results_dir), results_dir))
    write_text(page, "\n".join(parts))
    return tables


def records_of(table: Table, results_dir: Path) -> dict[str, Record]:
    """Return what is kept of a table's rows, by their names and in their order.

    Raises:
        InputError: as `read_record`.
    """
    found = ((row, read_record(results_dir, table, row)) for row in table.rows)
    return {row.name: record for row, record in found if record is not None}


def _section(table: Table, records: dict[str, Record], results_dir: Path) -> str:
    parts = [f"## {table.title}\n", f"{table.note}\n" if table.note else "", _status(table, records)]
    parts += [_lines(_main_rows(table, records)), ""]
    if len(table.protocols) > 1:
        parts += [_lines(_protocol_rows(table, records)), ""]
    parts.append(_protocol_notes(table))
    if table.reported:
        parts += ["Reported by others, not measured here:\n", _lines(_reported_rows(table)), ""]
    if (results_dir / table.name / PLOT_FILE).is_file():
        parts.append(f"![curves]({results_dir.name}/{table.name}/{PLOT_FILE})\n")
    parts += ["The commands of every row:\n", _commands(table, records)]
    return "\n".join(part for part in parts if part is not None)


def _status(table: Table, records: dict[str, Record]) -> str:
    if not records:
        return f"None of the {len(table.rows)} rows was run.\n"
    places = {
        f"{record.document['machine']['cores']} cores of {record.document['machine']['processor']}"
        if record.document["device"] == "cpu"
        else str(record.document["device"])
        for record in records.values()
    }
    return f"{len(records)} of {len(table.rows)} rows were run, on {' and '.join(sorted(places))}.\n"


def _groups(table: Table) -> list[list[Row]]:
    """Return the rows that differ in their seed only, together."""
    groups: dict[tuple[str, str, str | None], list[Row]] = {}
    for row in table.rows:
        groups.setdefault(row.group, []).append(row)
    return list(groups.values())


def _main_rows(table: Table, records: dict[str, Record]) -> list[list[str]]:
    """Return what the first protocol and the shifts measured, a line for every group of seeds."""
    first, shifts = table.protocols[0], table.evaluate["shifts"]
    head = ["network", "augmentation", "criterion", "seeds run", "accuracy", f"consistency, {first}"]
    tried = [f"same class, shifts: {shifts}", f"same bits, shifts: {shifts}"] if shifts != "none" else []
    rows = [[*head, *tried, "minutes of training", "trained on"]]
    for group in _groups(table):
        run = [records[row.name] for row in group if row.name in records]
        found = [record.evaluation(first) for record in run]
        cells = [
            *_names(group[0]),
            f"{len(run)} of {len(group)}" if run else _NOT_RUN,
            spread(entry["accuracy_percent"] for entry in found),
            spread(entry["authors"]["consistency_percent"] for entry in found),
        ]
        if tried:
            cells.append(spread(entry["consistency"]["top1_percent"] for entry in found))
            cells.append(spread(entry["consistency"]["identical_pairs_percent"] for entry in found))
        minutes = spread((record.document["train_seconds"] / 60 for record in run), unit="", digits=1)
        rows.append([*cells, minutes, "; ".join(sorted({record.describe_run() for record in run})) or _NOT_RUN])
    return rows


def _protocol_rows(table: Table, records: dict[str, Record]) -> list[list[str]]:
    """Return accuracy and consistency of every protocol but the first."""
    head = ["network", "augmentation", "criterion"]
    for protocol in table.protocols[1:]:
        head += [f"accuracy, {protocol}", f"consistency, {protocol}"]
    rows = [head]
    for group in _groups(table):
        cells = [*_names(group[0])]
        for protocol in table.protocols[1:]:
            found = [records[row.name].evaluation(protocol) for row in group if row.name in records]
            cells.append(spread(entry["accuracy_percent"] for entry in found))
            cells.append(spread(entry["authors"]["consistency_percent"] for entry in found))
        rows.append(cells)
    return rows


def _protocol_notes(table: Table) -> str:
    """Return what the consistency of every protocol of the table counts."""
    head = "Consistency is the share of images with the same class both times that their batch is moved at random:\n"
    return "\n".join([head, *(f"- `{name}`: {PROTOCOLS[name].describe()}" for name in table.protocols), ""])


def _reported_rows(table: Table) -> list[list[str]]:
    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:g} %"

    lines = [
        [entry.row, cell(entry.accuracy_percent), cell(entry.consistency_percent), entry.source]
        for entry in table.reported
    ]
    return [["network", "accuracy", "consistency", "source"], *lines]


def _names(row: Row) -> tuple[str, str, str]:
    return f"`{row.network}`", row.augmentation, row.criterion or "none"


def spread(values: Iterable[float], *, unit: str = " %", digits: int = 2) -> str:
    """Return the mean and, of several values, the sample standard deviation; of none, that they were not measured."""
    found = list(values)
    if not found:
        return _NOT_RUN
    mean = f"{statistics.fmean(found):.{digits}f}"
    return f"{mean}{unit}" if len(found) == 1 else f"{mean} ± {statistics.stdev(found):.{digits}f}{unit}"


def _commands(table: Table, records: dict[str, Record]) -> str:
    lines = []
    for row in table.rows:
        # Not the commands that are kept: older files have them without the processes and the device.
        run = records[row.name].document if row.name in records else None
        commands = [train_command(row, table, run)]
        commands += [evaluate_command(row, table, protocol, run) for protocol in table.protocols]
        state = "" if row.name in records else f" ({_NOT_RUN})"
        lines.append(f"- {row.name}{state}\n\n" + "\n".join(f"      {command}" for command in commands) + "\n")
    return "\n".join(lines)


def _lines(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the first row is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
