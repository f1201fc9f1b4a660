"""ONNX files in OpenVINO, on the CPU.

Its ``Pad`` has no mode ``wrap``, so a file with circular padding must be exported with ``--circular-pad concat``. It
computes in float32 only where it is told to: on processors with bfloat16 it would take that otherwise. And its CPU
plugin computes 64-bit whole numbers in 32 bits, where the sums of exact selection and pooling overflow (seen with
2026.4): it runs the files of this project and gives wrong answers, which `verify` finds. Other tools' files have no
such sums, and ``export --target tensorrt-8`` cuts them into parts that 32 bits hold.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.onnx_files import named_model, one_line
from aps_deploy.runtimes.onnx_reference_session import input_spec_of
from aps_deploy.runtimes.session import BaseSession
from aps_deploy.runtimes.threads import check_threads

if TYPE_CHECKING:
    import onnx

_LOGGER = logging.getLogger(__name__)


class OpenVinoSession(BaseSession):
    """An ONNX file in OpenVINO.

    Args:
        model: path of the file, or a model in memory.
        num_threads: threads; None leaves OpenVINO's choice.
        source: name for messages; the path where there is one.

    Raises:
        InputError: the file is no ONNX file, takes no images, or has an operator that OpenVINO lacks.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | onnx.ModelProto,
        *,
        num_threads: int | None = None,
        source: str | None = None,
    ) -> None:
        proto, name = named_model(model, source)
        check_threads(num_threads)
        self._compiled = _compiled(proto, num_threads, name)
        super().__init__(
            runtime="openvino",
            device="cpu",
            providers=("CPU",),
            metadata=ModelMetadata.from_onnx(proto, name),
            input_spec=input_spec_of(proto, name),
            output_names=tuple(output.name for output in proto.graph.output),
            source=name,
        )

    def _execute(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        try:
            results = self._compiled([images])
            # They lie in the request's memory, which the next run writes to.
            return [np.array(results[number]) for number in range(len(self.output_names))]
        except RuntimeError as error:
            raise ApsError(
                f"OpenVINO failed on {self.source} with images of shape {images.shape} ({one_line(error)})."
            ) from error

    def _release(self) -> None:
        del self._compiled


def _compiled(proto: onnx.ModelProto, num_threads: int | None, name: str) -> Any:
    import onnx.inliner
    import openvino

    wrapping = any(
        node.op_type == "Pad" and any(entry.name == "mode" and entry.s == b"wrap" for entry in node.attribute)
        for node in proto.graph.node
    )
    if wrapping:
        raise InputError(
            f"{name} pads circularly by Pad of mode wrap, which OpenVINO does not have; export it again with "
            "--target tensorrt-8, or with --circular-pad concat where no exact sums are needed."
        )
    # OpenVINO does not read model-local functions, the bodies of the custom-op form.
    plain = onnx.inliner.inline_local_functions(proto) if proto.functions else proto
    if _sums_64_bits(plain):
        _LOGGER.warning(
            "%s sums 64-bit whole numbers, which OpenVINO computes in 32 bits: where they overflow it is wrong",
            name,
        )
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
    if num_threads is not None:
        options["INFERENCE_NUM_THREADS"] = num_threads
    core = openvino.Core()
    try:
        return core.compile_model(core.read_model(plain.SerializeToString()), "CPU", options)
    except RuntimeError as error:
        raise InputError(
            f"{name} cannot be loaded by OpenVINO ({one_line(error)}); use the runtime onnxruntime."
        ) from error


def _sums_64_bits(proto: onnx.ModelProto) -> bool:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(proto)
    whole = {
        value.name for value in inferred.graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.INT64
    }
    return any(node.op_type == "ReduceSum" and node.input[0] in whole for node in proto.graph.node)
