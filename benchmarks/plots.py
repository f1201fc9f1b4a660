"""Pictures of the kept results for docs/performance.md: `python -m benchmarks.plots`.

Drawn from benchmarks/results alone, so that they can be made anywhere and show what was measured where the files say. A
result that is not kept has no picture. Lines and letters are grey and nothing is behind them: they can be read on white
and on black.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aps_deploy.files import atomic_path
from benchmarks.graph_costs import KINDS
from benchmarks.reporting import RESULTS_FOLDER, run_command

FOLDER = Path(__file__).resolve().parent.parent / "docs"

GREY = "#808080"
COLOURS = {
    "aps": "#3d8fd1",
    "aps_gather": "#2fa38a",
    "aps_one_pass": "#c56b9a",
    "aps_custom_op": "#8a6fd1",
    "lpf": GREY,
    "authors": "#d9803a",
    "strided": "#b9a13b",
}
LABELS = {
    "aps": "APS (in files: where)",
    "aps_gather": "APS, gather",
    "aps_one_pass": "APS, one pass",
    "aps_custom_op": "APS, custom op",
    "lpf": "blur and striding",
    "authors": "the authors' formulation",
    "strided": "plain striding",
}
PARTS = dict(zip(KINDS, (GREY, "#3d8fd1", "#b9a13b", "#2fa38a", "#d9803a", "#8a6fd1"), strict=True))

# Of no stated type: matplotlib's lists each of its 300 settings.
STYLE: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), GREY),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "legend.frameon": False,
    "font.size": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "aps-deploy",  # the same bytes for the same result
}


def main() -> None:
    _options()
    for name, draw in PICTURES.items():
        source = RESULTS_FOLDER / f"{name}.json"
        if not source.exists():
            print(f"{name}: nothing is kept; python -m benchmarks.{name} --write keeps it.")
            continue
        print(save(draw, json.loads(source.read_text(encoding="utf-8")), FOLDER / f"performance-{name}.svg"))


def save(draw: Callable[[Mapping[str, Any]], Figure], result: Mapping[str, Any], path: Path) -> Path:
    """Draw a result and write it as SVG, transparent; return the path."""
    with plt.rc_context(STYLE):
        figure = draw(result)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, transparent=True, bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    return path


def networks(result: Mapping[str, Any]) -> Figure:
    """Return bars of each network's time over that of blur and striding, a panel for each runtime."""
    runtimes = list(dict.fromkeys(entry["runtime"] for entry in result["measured"]))
    figure, panels = _panels(len(runtimes), width=3.4, height=2.9)
    for panel, runtime in zip(panels, runtimes, strict=True):
        entries = [entry for entry in result["measured"] if entry["runtime"] == runtime]
        groups = {name: [_over_lpf(entry, name) for entry in entries] for name in _compared(entries)}
        _bars(panel, groups, [_network_label(entry["setting"]) for entry in entries])
        for position, entry in enumerate(entries):
            bars = [ratio["at_most"] for ratio in entry["ratios"] if ratio["ratio"] == "aps/lpf" and "at_most" in ratio]
            panel.hlines(bars, position - 0.45, position + 0.45, colors=GREY, linestyles="dotted")
        panel.set_title(runtime)
    panels[0].set_ylabel("time over blur and striding")
    _legend(figure, panels[0])
    return figure


def layers(result: Mapping[str, Any]) -> Figure:
    """Return bars of the layer's time over that of blur and striding in ONNX Runtime, a panel for each batch."""
    entries = [entry for entry in result["measured"] if entry["runtime"] == "onnxruntime"]
    batches = sorted({int(entry["setting"].split(":")[1]) for entry in entries})
    figure, panels = _panels(len(batches), width=4.6, height=2.9)
    for panel, batch in zip(panels, batches, strict=True):
        shown = [entry for entry in entries if entry["setting"].split(":")[1] == str(batch)]
        _bars(
            panel,
            {name: [_over_lpf(entry, name) for entry in shown] for name in _compared(shown)},
            [entry["setting"].partition(":")[0].replace("x", "\n", 1).replace("x", "×") for entry in shown],
        )
        panel.set_title(f"the layer alone, batch {batch}")
    panels[0].set_ylabel("time over blur and striding")
    _legend(figure, panels[0])
    return figure


def growth(result: Mapping[str, Any]) -> Figure:
    """Return lines of the layer's milliseconds over each dimension, both in logarithms."""
    dimensions = list(dict.fromkeys(entry["dimension"] for entry in result["measured"]))
    figure, panels = _panels(len(dimensions), width=2.3, height=2.6)
    for panel, dimension in zip(panels, dimensions, strict=True):
        entries = [entry for entry in result["measured"] if entry["dimension"] == dimension]
        values = [entry["value"] for entry in entries]
        for name in (name for name in COLOURS if name in entries[0]["seconds"]):
            milliseconds = [1e3 * entry["seconds"][name]["median"] for entry in entries]
            panel.plot(values, milliseconds, color=COLOURS[name], label=LABELS[name], marker="o", markersize=3)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(values, [str(value) for value in values])
        panel.minorticks_off()
        panel.set_title({"side": "height = width"}.get(dimension, dimension))
    panels[0].set_ylabel("ms")
    _legend(figure, panels[0])
    return figure


def floor(result: Mapping[str, Any]) -> Figure:
    """Return stacked bars of the MB each network moves, by part, with the fewest possible as a mark."""
    settings = list(dict.fromkeys(entry["setting"] for entry in result["measured"]))
    figure, panels = _panels(len(settings), width=4.2, height=2.9)
    for panel, setting in zip(panels, settings, strict=True):
        entries = [entry for entry in result["measured"] if entry["setting"] == setting]
        bottom = [0.0] * len(entries)
        for part, colour in PARTS.items():
            heights = [entry["bytes_moved"][part] / 1e6 for entry in entries]
            panel.bar(range(len(entries)), heights, bottom=bottom, color=colour, label=part, width=0.65)
            bottom = [one + other for one, other in zip(bottom, heights, strict=True)]
        for position, entry in enumerate(entries):
            fewest = entry["fewest_bytes"] / 1e6
            label = "fewest" if position == 0 else "_"  # names that begin so are left out of the legend
            panel.hlines(fewest, position - 0.42, position + 0.42, colors="#c0392b", label=label)
        panel.set_xticks(range(len(entries)), [entry["network"].replace("_", "\n", 1) for entry in entries])
        panel.set_title(_network_label(setting).replace("\n", ", "))
    panels[0].set_ylabel("MB moved")
    _legend(figure, panels[0], columns=7)
    return figure


PICTURES: dict[str, Callable[[Mapping[str, Any]], Figure]] = {
    "networks": networks,
    "layers": layers,
    "growth": growth,
    "floor": floor,
}


def _panels(count: int, *, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), squeeze=False, layout="constrained")
    return figure, list(axes[0])


def _compared(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is drawn beside blur and striding: in the order of the colours, what was measured."""
    return [name for name in COLOURS if name in entries[0]["seconds"] and name not in ("lpf", "strided")]


def _over_lpf(entry: Mapping[str, Any], name: str) -> float:
    seconds = entry["seconds"]
    return float(seconds[name]["median"] / seconds["lpf"]["median"])


def _bars(panel: Axes, groups: Mapping[str, Sequence[float]], labels: Sequence[str]) -> None:
    width = 0.8 / len(groups)
    for number, (name, heights) in enumerate(groups.items()):
        places = [position + (number - (len(groups) - 1) / 2) * width for position in range(len(heights))]
        panel.bar(places, heights, width=0.9 * width, color=COLOURS[name], label=LABELS[name])
    panel.axhline(1.0, color=GREY, linewidth=0.8)
    panel.set_xticks(range(len(labels)), labels)


def _network_label(setting: str) -> str:
    name, side, batch = setting.split(":")
    return f"{name.partition('_')[0]}\n{side}×{side}\nbatch {batch}"


def _legend(figure: Figure, panel: Axes, columns: int = 5) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _options() -> argparse.Namespace:
    return argparse.ArgumentParser(description="Pictures of the kept results, into docs/.").parse_args()


if __name__ == "__main__":
    run_command(main)
