"""Another ONNX file as the reference."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.files import sha256_of
from aps_deploy.runtimes.batching import ImageSource, iterate_outputs
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.opening import open_session
from aps_deploy.runtimes.session import INDICES, LOGITS, Outputs
from aps_deploy.verification.comparing import Images, Progress
from aps_deploy.verification.crashes import refuse_what_crashes
from aps_deploy.verification.references.base import NUM_COMPONENTS, Kind, Reference, ReferenceTrace, without_selections
from aps_deploy.verification.selection import relative_gaps


class OnnxReference(Reference):
    """Another ONNX file, run on the CPU; its choices cannot be forced.

    Args:
        path: the file.

    Raises:
        InputError: the file is missing, damaged, changed since it was exported, or no image classifier.
    """

    kind: Kind = "onnx"
    can_run = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from aps_deploy.verification.instrument import load_inlined

        refuse_what_crashes(path)
        self._session = open_session(path, device="cpu")
        self._graph = load_inlined(Path(path))
        metadata = self._session.metadata
        layers = _reported_layers(self._graph, metadata, os.fspath(path))
        super().__init__(os.fspath(path), sha256_of(path), metadata, layers)

    def run(self, images: Images) -> Outputs:
        """Return the outputs for images (N, 3, H, W)."""
        return self._session.run(images)

    def trace(
        self,
        images: ImageSource,
        forced: npt.NDArray[np.int64] | None = None,
        *,
        batch_size: int = 64,
        progress: Progress | None = None,
    ) -> ReferenceTrace:
        """Return logits and the file's own choices for images (N, 3, H, W); ``forced`` must be None."""
        if forced is not None:
            raise ApsError(f"the choices of the ONNX file {self.name} cannot be forced.")
        parts = []
        for rows, outputs in iterate_outputs(self._session, images, batch_size=batch_size):
            # Whatever else it puts out would not fit in memory for all images.
            parts.append((outputs[LOGITS], outputs.get(INDICES)))
            if progress is not None:
                progress("reference", rows.stop, len(images))
        logits = np.concatenate([each for each, _ in parts])
        if not self.selection_layers:
            return without_selections(logits)
        chosen = np.concatenate([each for _, each in parts if each is not None]).astype(np.int64)
        if chosen.shape != (len(images), len(self.selection_layers)):
            raise InputError(
                f"the reference {self.name} reports selections of shape {chosen.shape} for {len(images)} images and "
                f"{len(self.selection_layers)} layers; export it again."
            )
        scores = self._scores(images, chosen, batch_size)
        return ReferenceTrace(logits, chosen, chosen, _margins(scores, chosen), scores)

    def _scores(self, images: ImageSource, chosen: npt.NDArray[np.int64], batch_size: int) -> npt.NDArray[np.float64]:
        """Return (N, L, s*s) scores measured on a copy of the graph; NaN where they cannot be had."""
        from aps_deploy.verification.instrument import measure_scores

        unknown = np.full((*chosen.shape, NUM_COMPONENTS), np.nan)
        if len(self.promised.selections) != len(self.selection_layers):
            return unknown
        try:
            measured = measure_scores(
                self._graph, self.promised, images, runtime=self._session.runtime, batch_size=batch_size
            )
        except ApsError:
            return unknown
        scores = np.stack(measured.scores, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = scores / np.abs(scores).max(axis=2, keepdims=True)
        # A map of zeros has zero scores, which tie.
        return np.where(scores == 0, 0.0, relative) if np.array_equal(measured.indices, chosen) else unknown


def _margins(scores: npt.NDArray[np.float64], chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return (N, L) relative margins: the chosen component's own gap is 0, the next smallest one is the margin."""
    margins = np.full(chosen.shape, np.inf)
    for layer in range(chosen.shape[1]):
        if not np.isnan(scores[:, layer]).all():
            margins[:, layer] = np.sort(relative_gaps(scores[:, layer], chosen[:, layer]), axis=1)[:, 1]
    return margins


def _reported_layers(graph: Any, metadata: ModelMetadata, name: str) -> tuple[str, ...]:
    """Return names of the layers whose choices the file's output reports; none without such an output."""
    output = next((value for value in graph.graph.output if value.name == INDICES), None)
    if output is None:
        return ()
    if metadata.selection_layers:
        return metadata.selection_layers
    shape = output.type.tensor_type.shape.dim
    count = int(shape[1].dim_value) if len(shape) == 2 else 0
    if count < 1:
        raise InputError(f"{name}: its output {INDICES} does not say how many selections it reports; export it again.")
    return tuple(f"selection {number}" for number in range(count))
