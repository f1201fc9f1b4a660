"""The one interface behind which every runtime stands: images in, named arrays out.

`BaseSession` checks the images, cuts them into the slices a file with a fixed batch size takes, and names the
outputs; a runtime only fills in `_execute`.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError
from aps_deploy.runtimes.availability import Device, RuntimeName
from aps_deploy.runtimes.gate import Gate
from aps_deploy.runtimes.inputs import InputSpec, check_images
from aps_deploy.runtimes.metadata import ModelMetadata

Outputs = dict[str, npt.NDArray[Any]]

LOGITS = "logits"
INDICES = "polyphase_indices"


@runtime_checkable
class Session(Protocol):
    """A loaded model that runs images; a context manager that frees the model at its end."""

    @property
    def runtime(self) -> RuntimeName:
        """The name of one of `availability.RUNTIMES`."""

    @property
    def device(self) -> Device:
        """Where it runs: ``cpu`` or ``cuda``."""

    @property
    def providers(self) -> tuple[str, ...]:
        """What computes, in order of preference, as the runtime itself reports it."""

    @property
    def metadata(self) -> ModelMetadata:
        """What the file says about itself; empty for a file of another tool."""

    @property
    def input_spec(self) -> InputSpec:
        """What the model takes."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """The keys of what `run` returns, and of outputs that have no row per image, which it leaves out."""

    @property
    def source(self) -> str:
        """The file's name as the user gave it, for messages."""

    def run(self, images: npt.NDArray[np.float32]) -> Outputs:
        """Return the outputs for images (N, 3, H, W) float32.

        Returns:
            ``logits`` (N, classes) float32; ``polyphase_indices`` (N, L) int64 where the model selects; any further
            output of the file under its own name. The arrays belong to the caller.

        Raises:
            InputError: the images have a dtype, shape or size the model does not take.
            ApsError: the runtime failed, or the session is closed.
        """

    def close(self) -> None:
        """Free the model once the runs that other threads have begun are over; closing twice does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BaseSession(abc.ABC):
    """What the sessions share: checks, slices of a fixed batch, names of the outputs, closing.

    Args:
        runtime: the runtime's name.
        device: where it runs.
        providers: what computes.
        metadata: what the file says about itself.
        input_spec: what the model takes.
        output_names: the model's outputs in order, under the file's own names.
        source: the file's name, for messages.
    """

    def __init__(
        self,
        *,
        runtime: RuntimeName,
        device: Device,
        providers: tuple[str, ...],
        metadata: ModelMetadata,
        input_spec: InputSpec,
        output_names: tuple[str, ...],
        source: str,
    ) -> None:
        self.runtime = runtime
        self.device = device
        self.providers = providers
        self.metadata = metadata
        self.input_spec = input_spec
        self.source = source
        # A file of another tool calls its first output what it likes.
        self.output_names = output_names if LOGITS in output_names else (LOGITS, *output_names[1:])
        self._gate = Gate()

    def run(self, images: npt.NDArray[np.float32]) -> Outputs:
        """Return the outputs for images (N, 3, H, W) float32; see `Session.run`."""
        with self._open():
            check_images(images, self.input_spec, self.metadata, self.source)
            return self._run_slices(images)

    def _run_slices(self, images: npt.NDArray[np.float32]) -> Outputs:
        batch = self.input_spec.batch
        if batch is None or len(images) == batch:
            return self._run_slice(images)
        parts = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            # Repeating the last image is always valid input; what it yields is cut off again.
            padding = np.repeat(part[-1:], batch - len(part), axis=0)
            outputs = self._run_slice(np.concatenate([part, padding]))
            parts.append({name: values[: len(part)] for name, values in outputs.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run_slice(self, images: npt.NDArray[np.float32]) -> Outputs:
        values = self._execute(np.ascontiguousarray(images, dtype=self.input_spec.dtype))
        outputs = dict(zip(self.output_names, values, strict=True))
        self._check_rows(outputs, len(images))
        logits = outputs[LOGITS]
        if logits.dtype != np.float32:
            outputs[LOGITS] = logits.astype(np.float32)
        if INDICES in outputs and outputs[INDICES].dtype.kind in "iu":
            # Files for runtimes without 64-bit numbers give int32.
            outputs[INDICES] = outputs[INDICES].astype(np.int64, copy=False)
        # A file of another tool may give out a scalar or a sequence as well, which has no part for each image.
        return {name: value for name, value in outputs.items() if isinstance(value, np.ndarray) and value.ndim > 0}

    def _check_rows(self, outputs: Outputs, count: int) -> None:
        for name in (LOGITS, INDICES):
            value: Any = outputs.get(name)
            if value is None and name != LOGITS:
                continue
            is_numbers = isinstance(value, np.ndarray) and value.dtype.kind not in "OSU"
            if not is_numbers or value.ndim == 0 or len(value) != count:
                seen = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
                raise ApsError(
                    f"{self.source}: its output {name} is {seen} for {count} images; accepted are numbers with one row "
                    "per image."
                )

    @abc.abstractmethod
    def _execute(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return the outputs in the file's order, as arrays nobody else writes to."""

    def close(self) -> None:
        """Free the model once the runs that other threads have begun are over; closing twice does nothing."""
        if self._gate.close():
            self._release()

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        """Keep the session open for the block, or say that it is closed."""
        with self._gate.enter() as is_open:
            if not is_open:
                raise ApsError(f"the session of {self.source} is closed; open it again with open_session.")
            yield

    @abc.abstractmethod
    def _release(self) -> None:
        """Drop what holds the model's memory; nothing runs any more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._gate.is_closed else self.device
        return f"<{type(self).__name__} of {self.source} on {self.runtime} ({state})>"
