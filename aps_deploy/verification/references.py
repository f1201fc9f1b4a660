"""What a file can be compared with: a checkpoint, another ONNX file, saved outputs, or nothing at all.

Only a checkpoint can be run with the file's own choices forced, which is what keeps a near-tie from blurring the
comparison. Of the others the answers are what they are: they can be compared where both chose alike.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.files import sha256_of
from aps_deploy.runtimes.batching import ImageSource, iterate_outputs
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.opening import ONNX_SUFFIXES, open_session
from aps_deploy.runtimes.session import INDICES, LOGITS, Outputs
from aps_deploy.verification.comparing import Images, Progress
from aps_deploy.verification.reference import ReferenceTrace, load_reference
from aps_deploy.verification.selection import relative_gaps

if TYPE_CHECKING:
    import torch

    from aps_deploy.preprocessing import Preprocessing

Kind = Literal["checkpoint", "onnx", "saved", "none"]

NUM_COMPONENTS = 4
"""Components of a selection: every registered architecture has stride 2."""

_CIFAR_LARGEST_SIDE = 64


class AnyReference(Protocol):
    """What every kind of reference tells and does."""

    @property
    def kind(self) -> Kind:
        """What it is."""

    @property
    def can_run(self) -> bool:
        """Whether it answers for other images than those of the verification, shifted ones for example."""

    @property
    def can_force(self) -> bool:
        """Whether `trace` can be told which components to choose."""

    @property
    def name(self) -> str:
        """For messages and the certificate."""

    @property
    def sha256(self) -> str | None:
        """Of the bytes of the checkpoint or file; None where there is nothing."""

    @property
    def architecture(self) -> str | None:
        """Registry name; None where it is not known."""

    @property
    def num_classes(self) -> int | None:
        """Number of logits; None where it is not known before the first run."""

    @property
    def selection_layers(self) -> tuple[str, ...]:
        """Names of the L selecting layers whose choices it reports."""

    @property
    def promised(self) -> ModelMetadata:
        """What a file made from it must declare and keep; empty where nothing is known."""

    @property
    def total_stride(self) -> int:
        """Product of the strides, in pixels; 1 where it is not known."""

    @property
    def shift_step(self) -> int:
        """Shifts by multiples of it, in pixels, are promised to change nothing."""

    @property
    def family(self) -> str | None:
        """``cifar`` or ``imagenet``; None where it is not known."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How an image becomes the input, where the reference says."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name per logit, where the reference says."""

    def run(self, images: Images) -> Outputs:
        """Return the logits for images (N, 3, H, W)."""

    def trace(
        self,
        images: ImageSource,
        forced: npt.NDArray[np.int64] | None = None,
        *,
        batch_size: int = 64,
        progress: Progress | None = None,
    ) -> ReferenceTrace:
        """Return logits and selections for images (N, 3, H, W), with ``forced`` (N, L) indices if it can."""


class DescribedReference:
    """A reference of which metadata is all that is known beforehand.

    Args:
        name: for messages.
        sha256: of the file behind it, if any.
        promised: what it says of itself.
        selection_layers: names of the layers whose choices it reports.
    """

    kind: Kind = "none"
    can_run = False
    can_force = False

    def __init__(
        self, name: str, sha256: str | None, promised: ModelMetadata, selection_layers: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self.sha256 = sha256
        self.promised = promised
        self.selection_layers = selection_layers

    @property
    def architecture(self) -> str | None:
        """Registry name, where the metadata has one."""
        return self.promised.architecture

    @property
    def num_classes(self) -> int | None:
        """Number of logits, where the metadata says."""
        return self.promised.num_classes

    @property
    def total_stride(self) -> int:
        """Product of the strides, in pixels; 1 where the metadata does not say."""
        return self.promised.total_stride

    @property
    def shift_step(self) -> int:
        """2 where the metadata says that only even shifts are promised, else 1: no file may ask for less."""
        return min(self.promised.shift_step, 2) if self.promised.arguments.get("pool_only") else 1

    @property
    def family(self) -> str | None:
        """``cifar`` or ``imagenet`` by the size of the input, where the metadata has one."""
        steps = self.promised.preprocessing
        return None if steps is None else family_of(steps.image_size)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The metadata's."""
        return self.promised.preprocessing

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The metadata's."""
        return self.promised.class_names

    def run(self, images: Images) -> Outputs:
        """Refuse: there is nothing to run.

        Raises:
            ApsError: always.
        """
        raise ApsError(f"the reference {self.name} cannot be run on other images.")

    def trace(
        self,
        images: ImageSource,
        forced: npt.NDArray[np.int64] | None = None,
        *,
        batch_size: int = 64,
        progress: Progress | None = None,
    ) -> ReferenceTrace:
        """Refuse: there is nothing to trace.

        Raises:
            ApsError: always.
        """
        raise ApsError(f"the reference {self.name} has no answers.")


class NoReference(DescribedReference):
    """Nothing to compare with: what a file is tried on follows from what it says of itself.

    Args:
        declared: what the file says of itself; empty for a file of another tool.
    """

    def __init__(self, declared: ModelMetadata) -> None:
        super().__init__("none", None, declared)


class OnnxReference(DescribedReference):
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


def resolve_reference(
    reference: str | os.PathLike[str] | torch.nn.Module | AnyReference | None, declared: ModelMetadata
) -> AnyReference:
    """Return the reference behind what a caller gave.

    Args:
        reference: a checkpoint, a packaged name, an ONNX file, a file of saved outputs (``.npz``), a network, a
            reference as it is, or None.
        declared: what the verified file says of itself, which is all there is where the reference is None.

    Raises:
        InputError: it is missing, damaged, or nothing that a file can be compared with.
    """
    if reference is None:
        return NoReference(declared)
    if hasattr(reference, "can_force"):
        return cast(AnyReference, reference)
    if isinstance(reference, (str, os.PathLike)):
        suffix = Path(reference).suffix.lower()
        if suffix in ONNX_SUFFIXES:
            return OnnxReference(reference)
        if suffix == ".npz":
            from aps_deploy.verification.saved_reference import SavedReference

            return SavedReference.load(reference)
    return load_reference(reference)


def without_selections(logits: npt.NDArray[Any]) -> ReferenceTrace:
    """Return the trace of a network that selects nothing, or does not say what."""
    none = np.zeros((len(logits), 0), np.int64)
    return ReferenceTrace(logits, none, none, np.zeros((len(logits), 0)), np.zeros((len(logits), 0, NUM_COMPONENTS)))


def family_of(side: int) -> str:
    """Return the family whose protocol fits images of this side, in pixels: ``cifar`` or ``imagenet``."""
    return "cifar" if side <= _CIFAR_LARGEST_SIDE else "imagenet"


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
