"""ONNX files in onnx's ReferenceEvaluator: plain numpy, the standard's own definition of every operator, and slow.

Local functions (the bodies of the custom-op form) are evaluated from the file; nothing is registered here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.inputs import InputSpec, image_input_spec
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.onnx_files import named_model, one_line
from aps_deploy.runtimes.session import BaseSession

if TYPE_CHECKING:
    import onnx


class OnnxReferenceSession(BaseSession):
    """An ONNX file in onnx's ReferenceEvaluator, on the CPU.

    Args:
        model: path of the file, or a model in memory.
        source: name for messages; the path where there is one.

    Raises:
        InputError: the file is no valid ONNX file or takes no images.
    """

    def __init__(self, model: str | os.PathLike[str] | onnx.ModelProto, *, source: str | None = None) -> None:
        proto, name = named_model(model, source)
        self._evaluator = _evaluator(proto, name)
        super().__init__(
            runtime="onnx-reference",
            device="cpu",
            providers=("ReferenceEvaluator",),
            metadata=ModelMetadata.from_onnx(proto, name),
            input_spec=input_spec_of(proto, name),
            output_names=tuple(output.name for output in proto.graph.output),
            source=name,
        )

    def _execute(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        try:
            outputs = self._evaluator.run(None, {self.input_spec.name: images})
        except Exception as error:  # the evaluator raises whatever numpy or an operator's code raises
            raise ApsError(
                f"onnx's ReferenceEvaluator failed on {self.source} with images of shape {images.shape} "
                f"({type(error).__name__}: {one_line(error)})."
            ) from error
        # Constants and reshapes come back as views of the model's or of the caller's memory.
        return [np.array(value) for value in outputs]

    def _release(self) -> None:
        del self._evaluator


def _evaluator(proto: onnx.ModelProto, name: str) -> Any:
    from onnx.reference import ReferenceEvaluator

    try:
        return ReferenceEvaluator(proto)
    except Exception as error:  # an unknown operator, opset or attribute: each has its own class
        raise InputError(
            f"{name} cannot be run by onnx's ReferenceEvaluator ({type(error).__name__}: {one_line(error)}); "
            "use the runtime onnxruntime."
        ) from error


def input_spec_of(proto: onnx.ModelProto, name: str) -> InputSpec:
    """Return what the model takes.

    Raises:
        InputError: it has not one input that takes images.
    """
    import onnx

    # Files of old tools list their weights among the inputs.
    weights = {weight.name for weight in proto.graph.initializer}
    inputs = [entry for entry in proto.graph.input if entry.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(repr(entry.name) for entry in inputs)
        raise InputError(f"{name} takes {len(inputs)} inputs ({names}); accepted are image classifiers with one input.")
    kind = inputs[0].type.tensor_type
    shape = tuple(dimension.dim_value for dimension in kind.shape.dim) if kind.HasField("shape") else None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name if kind.elem_type else "no tensor"
    return image_input_spec(inputs[0].name, shape, dtype, proto.producer_name, name)
