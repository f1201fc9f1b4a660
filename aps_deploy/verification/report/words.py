"""Numbers and names as people read them."""

from __future__ import annotations

import math

RUNTIMES = {
    "torch": "PyTorch",
    "torch-compiled": "compiled PyTorch",
    "onnxruntime": "ONNX Runtime",
    "onnx-reference": "the ONNX reference evaluator",
    "onnxruntime-kernels": "ONNX Runtime with the CPU kernels",
    "onnxruntime-tensorrt": "ONNX Runtime with TensorRT",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT for RTX",
}


def number(value: float | None) -> str:
    """Return a number with four significant digits; None, which JSON has for NaN and infinity, is "not finite"."""
    if value is None:
        return "not finite"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e6 else scientific(value, 3)


def scientific(value: float, digits: int = 1) -> str:
    """Return a number such as ``2.4e-7``, with at most that many significant digits."""
    if math.isinf(value):
        return "∞"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def magnitude(value: float) -> str:
    """Return a number of any size in few characters: ``15``, ``0.5``, ``2e-7``, ``∞``."""
    return f"{value:.2g}" if value == 0 or 0.01 <= abs(value) < 99.5 else scientific(value)


def percent(part: float, whole: float) -> str:
    """Return a share; one that is not all or nothing never reads as if it were."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if share in (0, 100):
        return f"{share:.0f} %"
    return f"{min(max(share, 0.01), 99.99):.2f} %"


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Return ``1 gate`` or ``3 gates``."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def place(runtime: str, device: str) -> str:
    """Return where a model ran, such as ``ONNX Runtime on the CPU``."""
    devices = {"cpu": "the CPU", "cuda": "a CUDA GPU"}
    return f"{RUNTIMES.get(runtime, runtime)} on {devices.get(device, device)}"
