"""Checkpoints in PyTorch, on the CPU or a CUDA device: the float32 reference other runtimes are compared with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.plugins.cpu import library
from aps_deploy.plugins.cpu.library import KERNELS
from aps_deploy.runtimes.availability import Device
from aps_deploy.runtimes.device_span import device_work
from aps_deploy.runtimes.inputs import InputSpec
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.onnx_files import one_line
from aps_deploy.runtimes.session import INDICES, LOGITS, BaseSession
from aps_deploy.runtimes.threads import check_threads

if TYPE_CHECKING:
    import torch


class TorchSession(BaseSession):
    """A network in PyTorch, in evaluation mode, float32 with TF32 off.

    Args:
        model: checkpoint path, packaged name, or a network made by `create_model`, which is moved to the device and
            put into evaluation mode.
        device: ``cpu``, ``cuda``, or None: CUDA where there is a device, else the CPU.
        num_threads: threads of PyTorch, for the whole process; None leaves them.
        source: name for messages.
        is_compiled: whether `torch.compile` compiles the network, which happens in the first run and once more for
            another batch size.

    Raises:
        InputError: there is no such checkpoint, it cannot be read, or CUDA was asked for and is not there.
        ApsError: the GPU does not take the network.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | torch.nn.Module,
        *,
        device: Device | None = None,
        num_threads: int | None = None,
        source: str | None = None,
        is_compiled: bool = False,
    ) -> None:
        import torch

        from aps_deploy.models import load_checkpoint

        path = os.fspath(model) if isinstance(model, (str, os.PathLike)) else None
        name = source or path or "the network in memory"
        where = _device(device, name)
        check_threads(num_threads)
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        network: Any = model if path is None else load_checkpoint(path)
        with _cuda_errors(where, name):
            self._network = network.to(where).eval()
        self._is_compiled = is_compiled
        forward = self._network.forward_with_selection
        self._forward: Any = torch.compile(forward) if is_compiled else forward
        metadata = ModelMetadata.from_model(network)
        super().__init__(
            runtime="torch-compiled" if is_compiled else "torch",
            device=where,
            providers=_providers(where, metadata),
            metadata=metadata,
            input_spec=InputSpec(),
            output_names=(LOGITS, INDICES) if metadata.num_selections else (LOGITS,),
            source=name,
        )

    def _execute(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        import torch

        # torch warns about read-only memory, which a memory-mapped or broadcast array has.
        writable = images if images.flags.writeable else images.copy()
        # The compiler traces autograd's view of the network, which inference mode has not.
        mode: Any = torch.no_grad() if self._is_compiled else torch.inference_mode()
        told = _cuda_errors(self.device, f"{self.source} with images of shape {images.shape}")
        with told, mode, full_float32(), device_work(self.device):
            logits, indices = self._run_network(torch.from_numpy(writable).to(self.device))
            outputs = [logits.float().cpu().numpy()]
            if INDICES in self.output_names:
                outputs.append(indices.to(torch.int64).cpu().numpy())
        return [np.ascontiguousarray(value) for value in outputs]

    def _run_network(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self._is_compiled:
            return self._forward(images)  # type: ignore[no-any-return]
        import torch

        try:
            return self._forward(images)  # type: ignore[no-any-return]
        except torch.OutOfMemoryError:
            raise  # of the run, not of the compiler
        except Exception as error:  # the compiler's own errors share no base with those of the C++ compiler it starts
            raise ApsError(
                f"torch.compile failed on {self.source} ({type(error).__name__}: {one_line(error)}); on a CPU it needs "
                "a C++ compiler, or use --runtime torch."
            ) from error

    def _release(self) -> None:
        del self._network, self._forward


@contextlib.contextmanager
def _cuda_errors(device: Device, what: str) -> Iterator[None]:
    """Turn an error of CUDA in this block into one sentence; on a CPU a RuntimeError is a bug and stays what it is.

    Args:
        device: where the block computes.
        what: what it works on, for the message.
    """
    import torch

    try:
        yield
    except RuntimeError as error:  # those of CUDA, of its libraries and of its memory share this base alone
        if device != "cuda":
            raise
        is_full = isinstance(error, torch.OutOfMemoryError)
        advice = "; give fewer images at once, or free memory of the GPU" if is_full else ""
        raise ApsError(f"PyTorch failed on {what} ({one_line(error)}){advice}.") from error


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Within this block float32 products are float32: no TF32, no bf16, and no algorithm chosen by timing."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _providers(where: Device, metadata: ModelMetadata) -> tuple[str, ...]:
    import torch

    if where == "cuda":
        return (torch.cuda.get_device_name(),)
    return ("CPU", KERNELS) if metadata.num_selections and library.is_used() else ("CPU",)


def _device(device: Device | None, name: str) -> Device:
    import torch

    works = torch.cuda.is_available()
    if device == "cuda" and not works:
        raise InputError(
            f"{name}: the device cuda was asked for and PyTorch {torch.__version__} finds none; available: cpu."
        )
    return device if device is not None else ("cuda" if works else "cpu")
