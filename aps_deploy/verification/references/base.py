"""What a file can be compared with, whatever it is: its promise, its answers, and its own choices on the way.

Only a checkpoint can be run with the file's choices forced, which is what keeps a near-tie from blurring the
comparison. Of the others the answers are what they are: they can be compared where both chose alike.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError
from aps_deploy.runtimes.batching import ImageSource
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.session import Outputs
from aps_deploy.verification.comparing import Images, Progress

if TYPE_CHECKING:
    from aps_deploy.preprocessing import Preprocessing

Kind = Literal["checkpoint", "onnx", "saved", "none"]

NUM_COMPONENTS = 4
"""Components of a selection: every registered architecture has stride 2."""

_CIFAR_LARGEST_SIDE = 64


@dataclasses.dataclass(frozen=True)
class ReferenceTrace:
    """A forward pass of the reference over all images.

    Attributes:
        logits: (N, classes) float32.
        indices: (N, L) int64, the indices used: the forced ones where given.
        chosen: (N, L) int64, what each layer would have chosen itself on the map it saw.
        margins: (N, L) float64, relative margin of each layer's own choice; infinite where it is not known.
        scores: (N, L, s*s) float64, each row divided by its largest magnitude; NaN where they are not known.
    """

    logits: npt.NDArray[np.float32]
    indices: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    margins: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]


class Reference:
    """What every kind of reference tells and does; as it stands, one of which metadata is all that is known.

    Args:
        name: for messages and the certificate.
        sha256: of the bytes of the checkpoint or file; None where there is nothing.
        promised: what a file made from it must declare and keep; empty where nothing is known.
        selection_layers: names of the L selecting layers whose choices it reports.

    Attributes:
        kind: what it is.
        can_run: whether it answers for other images than those of the verification, shifted ones for example.
        can_force: whether `trace` can be told which components to choose.
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
        """Registry name; None where it is not known."""
        return self.promised.architecture

    @property
    def num_classes(self) -> int | None:
        """Number of logits; None where it is not known before the first run."""
        return self.promised.num_classes

    @property
    def total_stride(self) -> int:
        """Product of the strides, in pixels; 1 where the metadata does not say."""
        return self.promised.total_stride

    @property
    def shift_step(self) -> int:
        """Shifts by multiples of it, in pixels, are promised to change nothing.

        2 where the metadata says that only even shifts are promised, else 1: no file may ask for less.
        """
        return min(self.promised.shift_step, 2) if self.promised.arguments.get("pool_only") else 1

    @property
    def family(self) -> str | None:
        """``cifar`` or ``imagenet`` by the size of the input, where the metadata has one."""
        steps = self.promised.preprocessing
        return None if steps is None else family_of(steps.image_size)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How an image becomes the input, where the metadata says."""
        return self.promised.preprocessing

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name per logit, where the metadata says."""
        return self.promised.class_names

    def run(self, images: Images) -> Outputs:
        """Return the logits for images (N, 3, H, W), by its own selections; here there is nothing to run.

        Raises:
            ApsError: it cannot be run.
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
        """Return logits and selections for images (N, 3, H, W); here there is nothing to trace.

        Args:
            images: an array, or what gives them in parts.
            forced: (N, L) int64, the components to choose, where `can_force`.
            batch_size: images per call.
            progress: called after every batch.

        Raises:
            ApsError: it has no answers, or its choices cannot be forced.
        """
        raise ApsError(f"the reference {self.name} has no answers.")


def without_selections(logits: npt.NDArray[Any]) -> ReferenceTrace:
    """Return the trace of a network that selects nothing, or does not say what."""
    none = np.zeros((len(logits), 0), np.int64)
    return ReferenceTrace(logits, none, none, np.zeros((len(logits), 0)), np.zeros((len(logits), 0, NUM_COMPONENTS)))


def family_of(side: int) -> str:
    """Return the family whose protocol fits images of this side, in pixels: ``cifar`` or ``imagenet``."""
    return "cifar" if side <= _CIFAR_LARGEST_SIDE else "imagenet"
