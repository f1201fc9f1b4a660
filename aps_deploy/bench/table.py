"""What `aps-deploy bench` prints for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from aps_deploy.bench.files import FilesResult
    from aps_deploy.bench.load import LoadResult


def load_table(result: LoadResult) -> Table:
    """Return the table of a server under load."""
    address = result.address
    table = Table(
        title=f"{address.model} at {address.scheme}://{address.authority}, images per request: {result.batch_size}",
        caption="client: cores that the measuring itself took; unstable: the windows' rates did not agree within 10 %",
    )
    for column in ("clients", "images/s", "p50 ms", "p90 ms", "p99 ms", "refused", "failed", "wrong", "client", ""):
        table.add_column(column, justify="right")
    for level in result.levels:
        times = ("-" if value is None else f"{value:.2f}" for value in (level.p50_ms, level.p90_ms, level.p99_ms))
        counts = (str(count) for count in (level.refused, level.failed, level.wrong))
        stability = "" if level.is_stable else "unstable"
        rate, client = f"{level.images_per_s:.1f}", f"{level.client_cpu:.2f}"
        table.add_row(str(level.concurrency), rate, *times, *counts, client, stability)
    return table


def files_table(result: FilesResult) -> Table:
    """Return the table of models beside each other."""
    caption = [
        "clock: CUDA events around the GPU's work, or the host's for the whole call",
        "ratio: time over that of the first line in the same round, median (quartiles)",
    ]
    if len({entry.clock for entry in result.measured}) > 1:
        caption.append("ratios of lines with different clocks: by the host's")
    caption += [f"{each.runtime} left out: {each.reason}" for each in result.skipped]
    size = f"{result.image_size}x{result.image_size}"
    table = Table(
        title=f"{result.windows} windows of {result.rounds} rounds, {result.batch_size} images of {size} in a run",
        caption="\n".join(caption),
    )
    for column in ("model", "runtime", "device", "clock", "p50 ms", "p90 ms", "p99 ms", "images/s", "ratio", ""):
        table.add_column(column, justify="left" if column in ("model", "runtime", "device", "clock") else "right")
    for entry in result.measured:
        times = (f"{value:.2f}" for value in (entry.p50_ms, entry.p90_ms, entry.p99_ms))
        ratio, rate = entry.ratio, f"{entry.images_per_s:.1f}"
        compared = f"{ratio['median']:.3f} ({ratio['lower_quartile']:.3f} to {ratio['upper_quartile']:.3f})"
        stability = "" if entry.is_stable else "unstable"
        table.add_row(entry.file, entry.runtime, entry.device, entry.clock, *times, rate, compared, stability)
    return table
