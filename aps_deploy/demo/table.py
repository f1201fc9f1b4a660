"""The demonstration's table, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from aps_deploy.demo.measuring import Measurement


def demo_table(lines: Sequence[Measurement]) -> Table:
    """Return the measurements as a table, one network after the other."""
    table = Table(title="The same images, moved by every possible number of pixels")
    table.add_column("network")
    table.add_column("file")
    table.add_column("runtime")
    for name in ("accuracy", "same class", "same bits", "tried", "parity", "latency"):
        table.add_column(name, justify="right")
    table.add_column("verify")
    previous = None
    for line in lines:
        if previous not in (None, line.model):
            table.add_section()
        table.add_row(
            line.model if previous != line.model else "",
            line.form if line.form == "checkpoint" else f"onnx, {line.form}",
            f"{line.runtime}, {line.device}",
            f"{line.accuracy_percent:.1f} %",
            f"{line.consistency.top1_percent:.2f} %",
            f"{line.consistency.identical_pairs_percent:.2f} %",
            f"{line.consistency.num_images} x {line.consistency.num_shifts:,}",
            f"{line.parity:.1e}",
            f"{line.latency_ms:.1f} ms",
            "passed" if line.verified else "FAILED",
        )
        previous = line.model
    table.caption = (
        "same class, same bits: share of shifted images with the unshifted image's class, and with bit-identical "
        "logits; tried: images x shifts; parity: largest logit difference to PyTorch; latency: one image, median; "
        "verify fails the ordinary network wherever a shift that it tried changed an answer, as it should"
    )
    return table
