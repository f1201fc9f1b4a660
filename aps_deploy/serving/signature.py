"""What a model takes and returns, as clients see it, and whether given tensors fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.serving.datatypes import DTYPES
from aps_deploy.serving.engine import ModelEngine, TensorSpec
from aps_deploy.serving.errors import InvalidRequestError


@dataclasses.dataclass(frozen=True)
class Signature:
    """The tensors of one model.

    Attributes:
        name: the model's name, for messages.
        inputs: what it takes, by name, in the file's order.
        outputs: what it returns, by name, in the file's order.
        max_rows: most rows of one request, along the first dimension of every tensor; 0 for a model whose shapes are
            whole (Triton's ``max_batch_size``).
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    max_rows: int

    @property
    def batches(self) -> bool:
        """Whether the first dimension of every tensor is the batch."""
        return self.max_rows > 0

    def tensor_metadata(self) -> dict[str, list[dict[str, Any]]]:
        """Return the ``inputs`` and ``outputs`` of the protocol's model metadata."""
        return {
            kind: [
                {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape or (-1,))}
                for spec in specs.values()
            ]
            for kind, specs in (("inputs", self.inputs), ("outputs", self.outputs))
        }

    def input(self, name: str) -> TensorSpec:
        """Return the input of that name.

        Raises:
            InvalidRequestError: the model has none.
        """
        if name not in self.inputs:
            raise InvalidRequestError(
                f"unexpected inference input '{name}' for model '{self.name}'; its inputs are {', '.join(self.inputs)}."
            )
        return self.inputs[name]

    def check_request(self, spec: TensorSpec, datatype: str, shape: Sequence[int]) -> None:
        """Do nothing where a request's tensor has the datatype and the shape of this input.

        Raises:
            InvalidRequestError: it has not.
        """
        if datatype != spec.datatype:
            raise InvalidRequestError(
                f"inference input '{spec.name}' data-type is '{datatype}', but model '{self.name}' expects "
                f"'{spec.datatype}'."
            )
        wanted = spec.shape or ()
        fits = len(shape) == len(wanted) and all(
            got == size or (size < 0 and got >= 0) for got, size in zip(shape, wanted, strict=True)
        )
        if not fits:
            raise InvalidRequestError(
                f"unexpected shape for input '{spec.name}' for model '{self.name}'. Expected {list(wanted)}, got "
                f"{list(shape)}."
            )

    def count_rows(self, tensors: Mapping[str, npt.NDArray[Any]]) -> int:
        """Return how many rows a request has; 1 for a model that does not batch.

        Raises:
            InvalidRequestError: an input is missing, their numbers of rows differ, or there are none or too many.
        """
        if len(tensors) != len(self.inputs):
            missing = [name for name in self.inputs if name not in tensors]
            raise InvalidRequestError(
                f"expected {len(self.inputs)} inputs but got {len(tensors)} inputs for model '{self.name}'; "
                f"missing: {', '.join(missing)}."
            )
        if not self.batches:
            return 1
        counts = {len(values) for values in tensors.values()}
        if len(counts) > 1:
            raise InvalidRequestError(
                f"the inputs of model '{self.name}' have different numbers of rows: {sorted(counts)}."
            )
        (count,) = counts
        if not 1 <= count <= self.max_rows:
            raise InvalidRequestError(
                f"inference request batch-size must be 1 to {self.max_rows} for '{self.name}', and is {count}."
            )
        return count


def signature_of(engine: ModelEngine, name: str, max_rows: int) -> Signature:
    """Return the signature of a loaded file.

    Raises:
        InputError: an input says nothing of its shape, or the model should batch and its first dimension is fixed.
    """
    for spec in engine.inputs:
        if spec.shape is None:
            raise InputError(f"{engine.source}: its input '{spec.name}' has no declared shape; export it with one.")
    fixed = [spec.name for spec in (*engine.inputs, *engine.outputs) if not spec.has_free_batch]
    if max_rows > 0 and fixed:
        raise InputError(
            f"{engine.source}: max_batch_size is {max_rows}, but the first dimension of {', '.join(fixed)} is not "
            "free; set max_batch_size: 0, or export it with a dynamic batch."
        )
    return Signature(
        name, {spec.name: spec for spec in engine.inputs}, {spec.name: spec for spec in engine.outputs}, max_rows
    )


def example_shape(engine: ModelEngine, spec: TensorSpec) -> tuple[int, ...]:
    """Return a shape this input takes, with one row: of the file's own images where it says which."""
    shape = spec.shape or ()
    side = 1
    if len(shape) == 4:
        metadata = engine.metadata
        multiple = -(-max(metadata.min_size, 32) // metadata.size_divisor) * metadata.size_divisor
        side = multiple if metadata.preprocessing is None else metadata.preprocessing.image_size
    return tuple(
        size if size > 0 else (1 if position == 0 else 3 if position == 1 and len(shape) == 4 else side)
        for position, size in enumerate(shape)
    )


def itemsize(spec: TensorSpec) -> int:
    """Return the bytes of one element."""
    return DTYPES[spec.datatype].itemsize
