"""Tensors as they travel: raw little-endian bytes, lists of numbers, and classifications.

The formats are those of the Open Inference Protocol v2 and Triton's extensions for binary tensor data and
classification (github.com/triton-inference-server/server, docs/protocol).
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.serving.datatypes import BYTES, DTYPES
from aps_deploy.serving.errors import InvalidRequestError, TooLargeError

MAX_RANK = 32
"""Most dimensions of a tensor that clients may send."""


@dataclasses.dataclass(frozen=True)
class RequestedOutput:
    """An output a client asks for.

    Attributes:
        name: the output's name.
        binary: whether it should come as raw bytes; gRPC has nothing else.
        num_classes: how many of the best classes to return in place of the values; 0 for the values.
    """

    name: str
    binary: bool = False
    num_classes: int = 0


@dataclasses.dataclass(frozen=True)
class OutputTensor:
    """An output, ready to be sent.

    Attributes:
        name: the output's name.
        datatype: the protocol's element type.
        shape: its dimensions.
        values: the numbers, or the byte strings of a classification.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: npt.NDArray[Any] | list[bytes]

    def to_bytes(self) -> bytes:
        """Return the elements as the protocol's raw bytes, row by row."""
        if isinstance(self.values, list):
            return b"".join(struct.pack("<I", len(value)) + value for value in self.values)
        return self.values.astype(DTYPES[self.datatype], copy=False).tobytes()

    def to_list(self) -> list[Any]:
        """Return the elements as a flat list of JSON values.

        Raises:
            InvalidRequestError: JSON cannot carry them.
        """
        if isinstance(self.values, list):
            return [value.decode("utf-8", "replace") for value in self.values]
        if self.datatype == "FP16":
            raise InvalidRequestError(
                f"sending FP16 data via JSON is not supported; ask for output '{self.name}' in binary."
            )
        if self.values.dtype.kind == "f" and not np.isfinite(self.values).all():
            raise InvalidRequestError(
                f"output '{self.name}' holds values that are not finite, which JSON cannot carry; ask for it in binary."
            )
        elements: list[Any] = self.values.ravel().tolist()
        return elements


def check_shape(name: str, shape: object, max_elements: int) -> tuple[int, ...]:
    """Return a request's shape as a tuple.

    Raises:
        InvalidRequestError: it is no list of dimensions.
        TooLargeError: it has more elements than the server takes.
    """
    sizes: tuple[Any, ...] = tuple(shape) if isinstance(shape, list) else ()
    if (
        not isinstance(shape, list)
        or len(sizes) > MAX_RANK
        or not all(type(size) is int and 0 <= size < 1 << 63 for size in sizes)
    ):
        raise InvalidRequestError(
            f"the shape of input '{name}' must be a list of at most {MAX_RANK} integers, 0 or more."
        )
    if math.prod(sizes) > max_elements:
        raise TooLargeError(
            f"input '{name}' has {math.prod(sizes)} elements; this server takes at most {max_elements}."
        )
    return sizes


def tensor_from_bytes(name: str, datatype: str, shape: tuple[int, ...], data: memoryview) -> npt.NDArray[Any]:
    """Return a tensor sent as raw bytes, without a copy where the bytes are aligned.

    Raises:
        InvalidRequestError: there are more or fewer bytes than the shape needs.
    """
    dtype = DTYPES[datatype]
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise InvalidRequestError(
            f"unexpected total byte size {len(data)} for input '{name}', expecting {expected}: shape {list(shape)} of "
            f"{datatype}."
        )
    if datatype == "BOOL":  # any byte but 0 is true; numpy would keep it as it is
        return np.asarray(np.frombuffer(data, np.uint8) != 0).reshape(shape)
    values = np.frombuffer(data, dtype).reshape(shape)
    native = dtype.newbyteorder("=")
    return values if values.flags.aligned and dtype == native else values.astype(native)


def tensor_from_list(name: str, datatype: str, shape: tuple[int, ...], data: object) -> npt.NDArray[Any]:
    """Return a tensor sent as a list of numbers, flat or nested.

    Raises:
        InvalidRequestError: the elements are not of the datatype, or not as many as the shape needs.
    """
    if datatype == "FP16":
        raise InvalidRequestError(
            f"receiving FP16 data via JSON is not supported; send input '{name}' as binary tensor data."
        )
    dtype = DTYPES[datatype].newbyteorder("=")
    accepted = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError, RecursionError):  # ragged, or integers of more than 64 bits
        raise InvalidRequestError(f"the data of input '{name}' is no regular list of {datatype} values.") from None
    if not isinstance(data, list) or (values.size and values.dtype.kind not in accepted):
        raise InvalidRequestError(f"the data of input '{name}' is no list of {datatype} values.")
    if values.size != math.prod(shape):
        raise InvalidRequestError(
            f"input '{name}' has {values.size} elements, but its shape {list(shape)} has {math.prod(shape)}."
        )
    if dtype.kind in "iu" and values.size:
        limits = np.iinfo(dtype)
        if int(values.min()) < limits.min or int(values.max()) > limits.max:
            raise InvalidRequestError(f"input '{name}' holds values outside {datatype}.")
    with np.errstate(over="ignore"):  # what overflows is refused in the next line
        converted = values.astype(dtype)
    if dtype.kind == "f" and (np.isinf(converted) & np.isfinite(values)).any():
        raise InvalidRequestError(f"input '{name}' holds values outside {datatype}.")
    return converted.reshape(shape)


def classified(
    name: str, values: npt.NDArray[Any], num_classes: int, *, batches: bool, labels: Sequence[str] | None
) -> OutputTensor:
    """Return the best classes of an output: ``value:index`` or ``value:index:label`` strings, best first.

    Args:
        name: the output's name.
        values: (rows, classes), or of any shape where the model does not batch.
        num_classes: how many; more than there are means all.
        batches: whether the first dimension is the batch.
        labels: one per class; None, or a wrong number of them, leaves them out.

    Raises:
        InvalidRequestError: the output is no list of numbers per row.
    """
    rows = values.reshape(len(values), -1) if batches else values.reshape(1, -1)
    if rows.dtype.kind == "b" or num_classes < 1:
        raise InvalidRequestError(f"output '{name}' cannot be classified into {num_classes} classes.")
    named = labels if labels is not None and len(labels) == rows.shape[1] else None
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :num_classes]
    texts = [
        _class_text(row[index], int(index), named) for row, best in zip(rows, order, strict=True) for index in best
    ]
    shape = (len(rows), order.shape[1]) if batches else (order.shape[1],)
    return OutputTensor(name, BYTES, shape, texts)


def _class_text(value: np.number[Any], index: int, labels: Sequence[str] | None) -> bytes:
    # Six decimals: Triton's std::to_string.
    text = f"{float(value):f}:{index}" if value.dtype.kind == "f" else f"{int(value)}:{index}"
    return (text if labels is None else f"{text}:{labels[index]}").encode()


def count_elements(tensors: Iterable[npt.NDArray[Any]]) -> int:
    """Return the elements of all tensors together."""
    return sum(values.size for values in tensors)
