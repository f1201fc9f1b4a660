"""An engine of TensorRT or TensorRT for RTX as the server sees it: named tensors in, named tensors out.

The session underneath fills batches up to a few sizes, cuts those beyond the largest of its profiles, records CUDA
graphs and copies through pinned memory; so the server's batches may have any size.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.inputs import InputSpec, check_size
from aps_deploy.runtimes.opening import open_session
from aps_deploy.serving.datatypes import datatype_of_numpy
from aps_deploy.serving.engine import Platform, Tensors, TensorSpec


class PlanEngine:
    """An engine, loaded on the GPU; see `aps_deploy.serving.engine.ModelEngine`.

    Args:
        path: the file, with its document beside it.
        device: ``cuda`` or None.

    Raises:
        InputError: it does not run here, is to run on a CPU, or leaves the size of images open and does not say which
            it was made for.
        ApsError: its first run fails.
    """

    platform: Platform = "tensorrt_plan"
    is_on_gpu = True

    def __init__(self, path: str | os.PathLike[str], *, device: str | None = None) -> None:
        self.source = os.fspath(path)
        if device == "cpu":
            raise InputError(f"{self.source} is an engine for a GPU; serve the ONNX file it was made from on a CPU.")
        self._session = open_session(path)
        self.metadata = self._session.metadata
        self.providers = self._session.providers
        taken = self._session.input_spec
        sizes = (taken.channels, taken.height, taken.width)
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec(taken.name, _datatype(taken.dtype), (-1, *(size or -1 for size in sizes))),
        )
        self.outputs = tuple(
            TensorSpec(name, _datatype(values.dtype), (-1, *values.shape[1:]))
            for name, values in self._session.run(self._example(taken)).items()
        )

    def run(self, tensors: Tensors) -> list[npt.NDArray[Any]]:
        """Return the outputs for the images; those of a float16 engine pass through float32, which changes no bit.

        Raises:
            InputError: no profile takes images of this size.
            ApsError: the engine failed.
        """
        images = tensors[self.inputs[0].name]
        outputs = self._session.run(images.astype(np.float32, copy=False))
        return [outputs[spec.name] for spec in self.outputs]

    def check_image_size(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        """Do nothing where images of this shape fit the network.

        Raises:
            InputError: height or width is no multiple of the total stride, or too small.
        """
        check_size(shape[2], shape[3], InputSpec(spec.name), self.metadata, spec.name)

    def _example(self, taken: InputSpec) -> npt.NDArray[np.float32]:
        """Return one image, from whose answer the shapes of the outputs are read."""
        preprocessing = self.metadata.preprocessing
        side = None if preprocessing is None else preprocessing.image_size
        height, width = taken.height or side, taken.width or side
        if height is None or width is None:
            raise InputError(f"{self.source} does not say how large its images are; export it with preprocessing.")
        return np.zeros((1, taken.channels or 3, height, width), np.float32)


def _datatype(dtype: npt.DTypeLike) -> str:
    kind = np.dtype(dtype).name
    datatype = datatype_of_numpy(kind)
    if datatype is None:
        raise ApsError(f"the engine has a tensor of {kind}, which the protocol does not know.")
    return datatype
