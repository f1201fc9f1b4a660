"""One picture of a table: accuracy over the epochs, and accuracy beside consistency at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aps_deploy.files import atomic_path
from aps_deploy.training.reproduction.records import Record

PLOT_FILE = "curves.png"


def save_plot(path: Path, records: Sequence[Record], protocol: str) -> None:
    """Draw the rows that were run; of none, nothing is drawn and an older picture is removed.

    Args:
        path: The file to write.
        records: What was kept of the rows.
        protocol: The protocol whose consistency is drawn.
    """
    if not records:
        path.unlink(missing_ok=True)
        return
    # The object interface with an Agg canvas leaves pyplot's global state, and any display, alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    curves, points = figure.subplots(1, 2)
    for record in records:
        _draw_curve(curves, record)
        found = record.evaluation(protocol)
        points.plot([found["authors"]["consistency_percent"]], [found["accuracy_percent"]], "o", label=record.row.name)
    curves.set_xlabel("epoch")
    curves.set_ylabel("accuracy, share of images")
    points.set_xlabel(f"consistency, protocol {protocol}, %")
    points.set_ylabel("test accuracy, %")
    for axes in (curves, points):
        axes.grid(alpha=0.3)
    curves.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _draw_curve(axes: Any, record: Record) -> None:
    key = "validation_accuracy" if "validation_accuracy" in record.metrics[-1] else "train_accuracy"
    which = record.metrics[-1].get("validation_images", "training")
    epochs = [line["epoch"] for line in record.metrics]
    axes.plot(epochs, [line[key] for line in record.metrics], marker=".", label=f"{record.row.name} ({which})")
