"""The arithmetic of the training step: device, autocast and loss scaling, each a no-op when off."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from aps_deploy.errors import InputError
from aps_deploy.training.settings import PrecisionName

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arithmetic:
    """Device and number format of the training step; weights and optimizer stay float32."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        """Return the context of the forward pass; it does nothing in float32."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        """Return the loss scaler; only fp16 needs one, elsewhere it passes everything through."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    @property
    def name(self) -> str:
        """Name of the number format as settings spell it."""
        return {torch.float32: "float32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Within this block products and convolutions of float32 are float32 on a GPU too.

    PyTorch's own default is TF32, with 10 bits of the fraction, for cuDNN's convolutions. Algorithms are not chosen by
    timing them (`cudnn.benchmark`): a run that is continued could get others, and end with other numbers.
    """
    before = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=cudnn.deterministic, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def find_device(name: str | None) -> torch.device:
    """Return the named device, or CUDA where there is one, else the CPU.

    Raises:
        InputError: the name is unknown, or there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name} is not known; accepted are cpu, cuda and cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name} is not supported; accepted are cpu, cuda and cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"--device {name} is not here: {torch.cuda.device_count()} CUDA devices found; use --device cpu."
        )
    return device


def find_arithmetic(precision: PrecisionName, device: torch.device) -> Arithmetic:
    """Return the arithmetic for a precision setting on a device.

    Raises:
        InputError: fp16 on the CPU, where gradients cannot be scaled safely.
    """
    if precision == "fp16" and device.type != "cuda":
        raise InputError("--precision fp16 needs a CUDA device; use --precision bf16 or float32 on the CPU.")
    if precision == "auto":
        precision = "bf16" if _computes_in_bf16(device) else "float32"
    dtype = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return Arithmetic(device, dtype)


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Emulated bf16 is slower than float32 on a CPU without the instructions, so "auto" asks for them.
    supported = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(check() for check in supported if check is not None)
