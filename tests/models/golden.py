"""The records of the authors' own code, and the recipe that remakes their weights and inputs.

Outputs of the public implementation of "Truly shift-invariant convolutional neural networks" (commit 9c319a2), run on
a CPU in float32. Weights and inputs follow from seeds derived from names, so only outputs are stored.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"
RECORDS: list[dict[str, Any]] = json.loads((DATA / "authors_outputs.json").read_text())


def generator(*parts: str) -> np.random.Generator:
    """Return the generator that the recipe names by ``parts``."""
    return np.random.default_rng(zlib.crc32("/".join(parts).encode()))


def images(record: dict[str, Any]) -> Tensor:
    """Return the record's input, (2, 3, size, size) float32."""
    size = record["size"]
    return torch.from_numpy(generator(record["name"], "input").standard_normal((2, 3, size, size)).astype(np.float32))


def binomial(size: int) -> np.ndarray:
    """Return the authors' blur filter, written out and not computed as ours is."""
    row = {1: [1], 2: [1, 1], 3: [1, 2, 1], 4: [1, 3, 3, 1], 5: [1, 4, 6, 4, 1]}[size]
    kernel = np.outer(row, row).astype(np.float32)
    return kernel / kernel.sum()


def state_dict(record: dict[str, Any]) -> dict[str, Tensor]:
    """Return the record's weights under the authors' keys."""
    tensors = {
        key: torch.from_numpy(np.asarray(_tensor(record["name"], key, shape))) for key, shape in record["keys"].items()
    }
    return {key: t if t.dtype == torch.int64 else t.float() for key, t in tensors.items()}


def _tensor(name: str, key: str, shape: list[int]) -> np.ndarray:
    r = generator(name, key)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("filt"):
        return np.broadcast_to(binomial(shape[-1]), shape).copy()
    if key.endswith("running_var"):
        return r.uniform(0.5, 1.5, shape)
    if key.endswith("running_mean"):
        return 0.1 * r.standard_normal(shape)
    if len(shape) == 4:
        return r.standard_normal(shape) * np.sqrt(2 / (shape[1] * shape[2] * shape[3]))
    if len(shape) == 2:
        return r.standard_normal(shape) * np.sqrt(1 / shape[1])
    if key.endswith("weight"):
        return r.uniform(0.5, 1.5, shape)
    return 0.1 * r.standard_normal(shape)


def logits(record: dict[str, Any], *, shifted: bool = False) -> np.ndarray:
    """Return the authors' logits (2, classes) float32 of the input, or of the shifted input."""
    with np.load(DATA / "authors_outputs.npz") as arrays:
        return np.asarray(arrays[record["name"] + ("/shifted" if shifted else "")])
