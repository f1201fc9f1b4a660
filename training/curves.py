"""The curves of a run as one PNG: loss, accuracy and learning rate over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aps_deploy.files import atomic_path

CURVES_FILE = "curves.png"


def save_curves(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Draw the records of a metrics file; an empty list draws nothing and writes nothing."""
    if not records:
        return
    # The object interface with an Agg canvas leaves pyplot's global state, and any display, alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, rate = figure.subplots(1, 3)
    _draw(loss, records, {"training": "train_loss", "validation": "validation_loss"}, "loss")
    _draw(
        accuracy,
        records,
        {
            "training": "train_accuracy",
            "validation": "validation_accuracy",
            "shift consistency": "validation_consistency",
        },
        "share of images",
    )
    _draw(rate, records, {"learning rate": "learning_rate"}, "learning rate")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _draw(axes: Any, records: Sequence[dict[str, Any]], names: dict[str, str], label: str) -> None:
    for title, key in names.items():
        points = [(record["epoch"], record[key]) for record in records if record.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "", label=title)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
