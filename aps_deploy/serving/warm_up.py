"""The first runs of a model: they allocate, they find out whether it works, and whether neighbours change answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError
from aps_deploy.serving.datatypes import DTYPES
from aps_deploy.serving.engine import ModelEngine
from aps_deploy.serving.signature import Signature, example_shape

logger = logging.getLogger(__name__)

_INSTANT_S = 0.0005
_NUM_TIMED_RUNS = 5

Tensors = dict[str, npt.NDArray[Any]]
Run = Callable[[Mapping[str, npt.NDArray[Any]]], list[npt.NDArray[Any]]]


def warm_up(engine: ModelEngine, signature: Signature) -> bool:
    """Run a model on made-up tensors, alone and in batches; return whether each row was the same bits everywhere.

    A batch of every power of two up to the largest, the largest itself and its neighbours are tried, rows in both
    orders. It is a sample: the certificate of `aps-deploy verify` is the proof.

    Raises:
        ApsError: the model fails on tensors of a shape that the file itself gives.
    """
    largest = max(1, signature.max_rows)
    tensors = _examples(engine, signature, largest)
    try:
        if not signature.batches:
            engine.run(tensors)
            return False
        return rows_are_independent(engine.run, tensors, largest)
    except ApsError as error:
        if all(size > 0 for spec in engine.inputs for size in (spec.shape or (-1,))[1:]):
            raise
        # The sizes were guessed; which ones are right, the file does not say.
        logger.warning("%s could not be warmed up: %s", signature.name, error)
        return False


def is_instant(engine: ModelEngine, signature: Signature) -> bool:
    """Return whether the largest batch takes a warm model less than half a millisecond, whatever clients send.

    Handing a run to another thread and its answer back costs a tenth of that on an idle machine, and much more on a
    busy one, where the event loop waits all that time.

    Raises:
        ApsError: the model fails on tensors of a shape that the file itself gives.
    """
    if engine.is_on_gpu or any(size < 0 for spec in engine.inputs for size in (spec.shape or (-1,))[1:]):
        return False
    tensors = _examples(engine, signature, max(1, signature.max_rows))
    seconds = []
    for _ in range(_NUM_TIMED_RUNS):
        start = time.perf_counter()
        engine.run(tensors)
        seconds.append(time.perf_counter() - start)
    return min(seconds) < _INSTANT_S


def rows_are_independent(run: Run, tensors: Mapping[str, npt.NDArray[Any]], largest: int) -> bool:
    """Return whether every row's outputs are the same bits alone and in batches, in either order.

    Args:
        run: what computes the outputs.
        tensors: ``largest`` rows of every input.
        largest: the largest batch to try.
    """
    alone = [_bits(run({name: values[row : row + 1] for name, values in tensors.items()})) for row in range(largest)]
    sizes = {size for size in (2, 3, 4, 5, 7, 8, 16, 32, 64, 128, largest - 1, largest) if 1 < size <= largest}
    for size in sorted(sizes):
        for order in (slice(None, size), slice(size - 1, None, -1)):
            batch = {name: np.ascontiguousarray(values[order]) for name, values in tensors.items()}
            outputs = run(batch)
            if any(values.ndim == 0 or len(values) != size for values in outputs):
                return False
            rows = range(largest)[order]
            for position, row in enumerate(rows):
                if _bits([values[position : position + 1] for values in outputs]) != alone[row]:
                    return False
    return True


def _bits(outputs: list[npt.NDArray[Any]]) -> list[bytes]:
    return [values.tobytes() for values in outputs]


def _examples(engine: ModelEngine, signature: Signature, num_rows: int) -> Tensors:
    generator = np.random.default_rng(0)
    tensors = {}
    for name, spec in signature.inputs.items():
        shape = example_shape(engine, spec)
        shape = (num_rows, *shape[1:]) if signature.batches else shape
        dtype = DTYPES[spec.datatype].newbyteorder("=")
        if dtype.kind == "f":
            # A brightness per row: rows of mere noise are all alike to a network that averages.
            noise = generator.standard_normal(shape) + generator.standard_normal((shape[0],) + (1,) * (len(shape) - 1))
            tensors[name] = noise.astype(dtype)
        else:
            tensors[name] = np.zeros(shape, dtype)  # whatever is indexed with it has a first element
    return tensors
