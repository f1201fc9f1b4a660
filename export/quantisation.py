"""int8 by static quantisation: Q/DQ pairs before the convolutions, with ranges measured on real images.

The graph is quantised while every selection and every pooling is still one node of the domain ``aps``, so no pair can
get inside them: they stay float32 by construction. What a pair looks like, and why:

* Activations are symmetric int8 (zero point 0), the only kind that TensorRT takes; weights are symmetric per channel.
* Pairs stand before each convolution and not behind it, as TensorRT's fusion wants them: what a selection compares and
  a residual sum adds is not rounded to 8 bits. A second pair behind took the smallest cosine of a trained ResNet-20
  from 0.995 to 0.989. The price is paid on CPUs: ONNX Runtime computes in int8 only between two pairs, and otherwise
  multiplies the dequantised numbers in float32.
* Biases stay float32: TensorRT refuses a DequantizeLinear of int32.
* The classifier stays float32, as in every precision.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx

from aps_deploy.errors import known_name
from aps_deploy.export.forms import attach_bodies

CalibrationMethod = Literal["entropy", "minmax", "percentile"]
CALIBRATION_METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)

# One batch is in memory with all of its feature maps at a time.
_BATCH_SIZE = 32

_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": ["Conv"],
    # Named after one method but obeyed by all: collect the statistics of one batch, forget the batch, go on.
    "CalibStridedMinMax": 1,
}


def resolve_method(name: str) -> CalibrationMethod:
    """Return ``name`` as one of the calibration methods.

    Raises:
        InputError: no such method.
    """
    return known_name(name, CALIBRATION_METHODS, "calibration method")


def quantised(
    traced: onnx.ModelProto,
    images: npt.NDArray[np.float32],
    method: CalibrationMethod,
    kept: Collection[str] = (),
) -> onnx.ModelProto:
    """Return a graph of `trace_onnx`, which is not changed, with Q/DQ pairs before every convolution.

    Args:
        traced: float32; its nodes of the domain ``aps`` are left as they are.
        images: (N, 3, H, W) float32, preprocessed, of the size the graph takes; the ranges are measured on them.
        method: ``minmax`` covers every value seen; ``entropy`` cuts where the least information is lost, as ONNX
            Runtime searches it (on one batch of `_BATCH_SIZE` images alone it finds nothing to cut); ``percentile``
            cuts 0.001 % of the values.
        kept: names of convolutions that get no pairs and compute in float32.
    """
    from onnxruntime import quantization

    methods = quantization.CalibrationMethod
    chosen = {"minmax": methods.MinMax, "entropy": methods.Entropy, "percentile": methods.Percentile}[method]
    runnable = attach_bodies(traced, "where")
    # What the quantiser looks for before it advises to preprocess the graph; ours is folded already.
    runnable.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory(prefix="aps-deploy-int8-") as folder, _quiet():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(runnable, source)
        quantization.quantize_static(
            source,
            target,
            _Batches(traced.graph.input[0].name, images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=list(kept),
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=chosen,
            calibration_providers=["CPUExecutionProvider"],
            extra_options=dict(_OPTIONS),
        )
        proto = onnx.load(target)
    # Back to what a traced graph is: without bodies, without inferred types, with the traced graph's own header.
    for field in ("functions", "metadata_props", "opset_import"):
        proto.ClearField(field)
    del proto.graph.value_info[:]
    proto.opset_import.extend(traced.opset_import)
    proto.producer_name, proto.producer_version = traced.producer_name, traced.producer_version
    return proto


class _Batches:
    """Hands the images to ONNX Runtime's calibrators, which ask for a range of batches at a time."""

    def __init__(self, input_name: str, images: npt.NDArray[np.float32]) -> None:
        self._input_name = input_name
        self._batches = [images[start : start + _BATCH_SIZE] for start in range(0, len(images), _BATCH_SIZE)]
        self._remaining = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._remaining = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        batch = next(self._remaining, None)
        return None if batch is None else {self._input_name: batch}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the quantiser prints about its progress; errors are raised, not printed."""
    # A handler that drops everything: without any, the quantiser's first message would install one for the process.
    handler, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(handler)
    disabled = root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)
