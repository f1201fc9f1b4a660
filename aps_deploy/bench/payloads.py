"""The images that a server is asked: drawn at random once, since what they show does not change what they cost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.bench.target import Input
from aps_deploy.errors import InputError
from aps_deploy.serving.datatypes import DTYPES


@dataclasses.dataclass(frozen=True)
class Payload:
    """One request: its tensors, in the protocol's bytes.

    Attributes:
        inputs: what the model takes, with the shapes of this request.
        tensors: the raw elements of each.
    """

    inputs: Sequence[Input]
    tensors: Sequence[bytes]

    def http_body(self) -> tuple[bytes, int]:
        """Return the body of the HTTP request, all tensors binary, and how many bytes of it are JSON."""
        described = [
            {
                "name": entry.name,
                "datatype": entry.datatype,
                "shape": list(entry.shape),
                "parameters": {"binary_data_size": len(data)},
            }
            for entry, data in zip(self.inputs, self.tensors, strict=True)
        ]
        header = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
        return b"".join([header, *self.tensors]), len(header)


def make_payloads(
    inputs: Sequence[Input], count: int, *, batch_size: int, image_size: int | None, seed: int
) -> list[Payload]:
    """Return different requests for a model.

    Args:
        inputs: what it takes.
        count: how many requests.
        batch_size: images in each.
        image_size: height and width, where the model leaves them free.
        seed: of the random elements.

    Raises:
        InputError: the model takes something else than numbers, a size that it leaves free was not given, or the
            requests do not fit into memory.
    """
    generator = np.random.default_rng(seed)
    whole = [dataclasses.replace(entry, shape=_shape(entry, batch_size, image_size)) for entry in inputs]
    try:
        return [Payload(whole, [_elements(entry, generator).tobytes() for entry in whole]) for _ in range(count)]
    except (MemoryError, ValueError) as error:  # more than there is, or than any array can hold
        raise InputError(
            f"requests of {batch_size} images do not fit into the memory of this machine; give a smaller --batch-size "
            "or --image-size."
        ) from error


def _shape(entry: Input, batch_size: int, image_size: int | None) -> tuple[int, ...]:
    first, *others = entry.shape or (-1,)
    if first >= 0 and first != batch_size:
        raise InputError(f"input '{entry.name}' takes {first} images, not {batch_size}; give --batch-size {first}.")
    if min(others, default=0) < 0 and image_size is None:
        raise InputError(f"input '{entry.name}' leaves sizes free ({list(entry.shape)}); give --image-size N.")
    return (batch_size, *(size if size >= 0 else image_size or 0 for size in others))


def _elements(entry: Input, generator: np.random.Generator) -> npt.NDArray[Any]:
    dtype = DTYPES.get(entry.datatype)
    if dtype is None:
        raise InputError(f"input '{entry.name}' takes {entry.datatype}; this measures models that take numbers.")
    if dtype.kind == "f":
        return generator.standard_normal(entry.shape).astype(dtype)
    return generator.integers(0, 2 if dtype.kind == "b" else 127, entry.shape).astype(dtype)
