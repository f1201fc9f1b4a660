"""What a network must cost: bytes moved and operations, computed from the exported graphs, nothing timed.

    python -m benchmarks.floor             # a table for resnet18_aps3 at 224 and resnet20_aps3 at 32, in a minute
    python -m benchmarks.floor --write     # also benchmarks/results/floor.json and the tables of docs/performance.md

For one batch: MB moved and millions of operations by part of the network as the file states it, the fewest MB that
separate convolutions can do with, and the most MB of maps alive at once (see `graph_costs`).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from aps_deploy.files import write_text
from benchmarks.graph_costs import (
    KINDS,
    SizedGraph,
    fewest_bytes,
    largest_alive,
    moved_by_kind,
    node_costs,
    operations_by_kind,
)
from benchmarks.networks import Setting, exported
from benchmarks.reporting import RESULTS_FOLDER, add_write_option, keep, run_command

RESULTS = RESULTS_FOLDER / "floor.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- benchmarks.floor writes from here -->", "<!-- to here -->"
SETTINGS = ("resnet18_aps3:224:1", "resnet20_aps3:32:64")


def main() -> None:
    options = _options()
    measured = [entry for setting in map(Setting.parse, options.settings) for entry in floors(setting)]
    text = tables(measured)
    print(text)
    if options.write:
        keep(options.write, {"measured": measured})
    if options.write == RESULTS:
        write_text(PAGE, with_tables(PAGE.read_text(encoding="utf-8"), text))


def floors(setting: Setting) -> list[dict[str, Any]]:
    """Return what each network of a setting moves and computes, in bytes and operations of one run of the batch."""
    torch.manual_seed(0)
    networks = setting.networks()
    files = {name: exported(model, setting.side) for name, model in networks.items()}
    files["aps_custom_op"] = exported(networks["aps"], setting.side, "custom-op")
    found = []
    for name in ("strided", "lpf", "aps", "aps_custom_op", "authors"):
        graph = SizedGraph(files[name], setting.batch)
        costs = node_costs(graph)
        found.append(
            {
                "setting": str(setting),
                "network": name,
                "nodes": len(graph.nodes),
                "bytes_moved": moved_by_kind(costs),
                "operations": operations_by_kind(costs),
                "fewest_bytes": fewest_bytes(graph),
                "largest_alive_bytes": largest_alive(graph),
            }
        )
    return found


def tables(measured: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of bytes and one of operations for each setting."""
    parts = []
    for setting in dict.fromkeys(entry["setting"] for entry in measured):
        entries = [entry for entry in measured if entry["setting"] == setting]
        name, side, batch = setting.split(":")
        parts.append(f"`{name}`, {batch} of {side} x {side}, MB moved:\n\n{_bytes_table(entries)}")
        parts.append(f"`{name}`, {batch} of {side} x {side}, millions of operations:\n\n{_operations_table(entries)}")
    return "\n\n".join(parts)


def with_tables(page: str, text: str) -> str:
    """Return the page with what stands between its two marks replaced by the tables."""
    before, mark, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert mark and end, "docs/performance.md has no marks for the tables"
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def _bytes_table(entries: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for entry in entries:
        moved = entry["bytes_moved"]
        columns = [*(moved[kind] for kind in KINDS), sum(moved.values())]
        columns += [entry["fewest_bytes"], entry["largest_alive_bytes"]]
        rows.append([f"`{entry['network']}`", *(f"{value / 1e6:.1f}" for value in columns), str(entry["nodes"])])
    return _markdown(["network", *KINDS, "all", "fewest", "alive at once", "nodes"], rows)


def _operations_table(entries: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for entry in entries:
        operations = entry["operations"]
        # What an `aps` node computes no graph says.
        shown = {kind: f"{operations[kind] / 1e6:.1f}" for kind in KINDS if kind != "padding"}
        if entry["network"] == "aps_custom_op":
            shown["selection"] = "not known"
        rows.append([f"`{entry['network']}`", *shown.values()])
    return _markdown(["network", *(kind for kind in KINDS if kind != "padding")], rows)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Bytes moved and operations, from the exported graphs.")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="NAME:SIDE:BATCH, NAME an APS architecture")
    add_write_option(parser, RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
