"""What a probe found, as plain values: JSON for programs, a table for people."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aps_deploy.files import write_json

if TYPE_CHECKING:
    from rich.console import RenderableType

Kind = Literal["grid", "padding", "border", "order", "position", "selection", "tie", "branches", "other", "whole"]
"""Why an output is not the shifted output:

``grid``       it keeps a fixed part of the pixels (a stride, a crop, windows)
``padding``    it pads otherwise than circularly
``border``     it loses pixels at the border
``order``      it adds or rounds in an order that depends on the position
``position``   it treats positions by numbers of their own
``selection``  a selection takes another component
``tie``        the same, but its two best components tie exactly: no rule by index could do better
``branches``   it joins maps that moved apart
``whole``      no operator does alone, the file as a whole does: the runtime joins operators
``other``      none of these
"""

PROBE_VERSION = 1
"""Grows when a reader of the older version would misread the document."""


@dataclasses.dataclass(frozen=True)
class ProbeFinding:
    """One operator, or one selection taken whole, whose output is not the shifted output.

    Attributes:
        node: name of the first node, or of its first output where it has none; ``the file`` for ``whole``.
        op_type: its operator; empty for ``whole``.
        operators: how many nodes were taken as one.
        kind: see `Kind`.
        reason: in words.
        output: the value that was compared.
        input_shapes: of the inputs that depend on the image, in order.
        output_shape: of the output.
        shift: (dy, dx) by which the map it reads was moved, in pixels of that map.
        max_abs_difference: largest difference of the output from the moved output; None where it is no number.
        differing_percent: elements of the output whose bits differ.
        images: number of images on which it was found.
    """

    node: str
    op_type: str
    operators: int
    kind: Kind
    reason: str
    output: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    shift: tuple[int, int]
    max_abs_difference: float | None
    differing_percent: float
    images: int = 1

    @property
    def counts(self) -> bool:
        """Whether equivariance was promised; it is not where two components tie exactly."""
        return self.kind != "tie"

    def sentence(self) -> str:
        """Return the finding in one line."""
        what = f"{self.op_type} {self.node}".strip()
        return f"{what}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        document = dataclasses.asdict(self)
        document["input_shapes"] = [list(shape) for shape in self.input_shapes]
        document["output_shape"], document["shift"] = list(self.output_shape), list(self.shift)
        return document


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        findings: in the order of the graph; the first is the one to look at.
        num_nodes: nodes of the graph, its functions inlined.
        num_checked: pieces of it that were run alone, the largest number over the images.
        num_images: images tried.
        runtime: ``onnxruntime`` or ``onnx-reference``, on the CPU.
        shift: (dy, dx) by which the images were moved, in pixels; None where every piece was tried with a few offsets
            of its own map.
        about: plain JSON values: the file and the images.
    """

    findings: tuple[ProbeFinding, ...]
    num_nodes: int
    num_checked: int
    num_images: int
    runtime: str
    shift: tuple[int, int] | None = None
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def first(self) -> ProbeFinding | None:
        """The first operator that breaks the promise; None where none does."""
        return next((finding for finding in self.findings if finding.counts), None)

    @property
    def exit_code(self) -> int:
        """0 where every operator kept the promise, 1 where one did not."""
        return 0 if self.first is None else 1

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values, the first finding before all others."""
        document = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        document["findings"] = [finding.to_dict() for finding in self.findings]
        document["shift"] = None if self.shift is None else list(self.shift)
        first = None if self.first is None else self.first.to_dict()
        return {"probe_version": PROBE_VERSION, "equivariant": first is None, "first": first, **document}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result as JSON, atomically, and return its path.

        Raises:
            InputError: the folder does not exist.
            ApsError: the disk is full or the folder cannot be written.
        """
        write_json(path, self.to_dict())
        return Path(path)


def probe_table(result: ProbeResult) -> RenderableType:
    """Return the result for a terminal: one line per finding, then the first of them in words."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Operators whose output is not the shifted output", title_justify="left")
    for name in ("node", "operator", "why", "input", "output", "shift", "largest difference", "differs", "images"):
        table.add_column(name, overflow="fold")
    for finding in result.findings:
        difference = finding.max_abs_difference
        table.add_row(
            finding.node,
            finding.op_type + (f" and {finding.operators - 1} more" if finding.operators > 1 else ""),
            finding.kind,
            " ".join("x".join(map(str, shape)) or "scalar" for shape in finding.input_shapes),
            "x".join(map(str, finding.output_shape)) or "scalar",
            f"{finding.shift[0]},{finding.shift[1]}",
            "not finite" if difference is None else f"{difference:.3g}",
            f"{finding.differing_percent:.3g} %",
            f"{finding.images} of {result.num_images}",
        )
    counted = f"{result.num_nodes} nodes in {result.num_checked} pieces on {result.num_images} images"
    first = result.first
    if first is None:
        verdict = Text(f"every operator moves with the image: {counted}, {result.runtime} on cpu", style="bold green")
    else:
        verdict = Text(f"first: {first.sentence()}\n", style="bold red").append(
            f"{counted}, {result.runtime} on cpu", style="not bold default"
        )
    return Group(*([table] if result.findings else []), verdict)
