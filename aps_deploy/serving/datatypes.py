"""The protocol's element types beside numpy's and ONNX Runtime's."""

from __future__ import annotations

from typing import Any

import numpy as np

_NUMPY: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}

# The protocol is little-endian on every machine.
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(kind).newbyteorder("<") for name, kind in _NUMPY.items()}
"""numpy's type of each of the protocol's numeric datatypes."""

BYTES = "BYTES"
"""The protocol's datatype of byte strings, here only of classifications."""

_OF_NUMPY = {dtype.name: name for name, dtype in DTYPES.items()}

_OF_ONNXRUNTIME = {
    "tensor(bool)": "BOOL",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def datatype_of_numpy(kind: str) -> str | None:
    """Return the protocol's datatype of ``float32`` and the like, numpy's names; None where there is none."""
    return _OF_NUMPY.get(kind)


def datatype_of_onnxruntime(kind: str) -> str | None:
    """Return the protocol's datatype of ``tensor(float)`` and the like; None where there is none."""
    return _OF_ONNXRUNTIME.get(kind)


def config_datatype(datatype: str) -> str:
    """Return the name of a datatype in Triton's model configuration, such as ``TYPE_FP32``."""
    return "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"
