"""The float32 PyTorch model that a file is compared with: evaluation mode, CPU, TF32 off. The judge of every parity."""

from __future__ import annotations

import copy
import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.plugins.switch import without_kernels
from aps_deploy.runtimes.batching import ImageSource, batches
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.session import LOGITS, Outputs
from aps_deploy.verification.comparing import Images, Progress
from aps_deploy.verification.references.base import Kind, Reference, ReferenceTrace

if TYPE_CHECKING:
    import torch


class CheckpointReference(Reference):
    """A network in PyTorch.

    Args:
        model: float32, evaluation mode.
        name: file name, packaged name or architecture, for messages.
        sha256: of the checkpoint's bytes; of the weights for a model in memory.
    """

    kind: Kind = "checkpoint"
    can_run = True
    can_force = True

    def __init__(self, model: Any, name: str, sha256: str) -> None:
        super().__init__(name, sha256, ModelMetadata.from_model(model), tuple(model.selection_layers))
        self.model = model

    @property
    def shift_step(self) -> int:
        """Shifts by multiples of it, in pixels, are promised to change nothing."""
        return int(self.model.shift_step)

    @property
    def family(self) -> str:
        """``cifar`` or ``imagenet``, by the architecture."""
        return str(self.model.spec.family)

    def run(self, images: Images) -> Outputs:
        """Return the logits for images (N, 3, H, W), by the reference's own selections, as a session would."""
        import torch

        from aps_deploy.runtimes.torch_session import full_float32

        device = next(self.model.parameters()).device
        with torch.inference_mode(), full_float32(), without_kernels():
            logits = self.model(torch.from_numpy(np.array(images)).to(device))
        return {LOGITS: logits.cpu().numpy()}

    def trace(
        self,
        images: ImageSource,
        forced: npt.NDArray[np.int64] | None = None,
        *,
        batch_size: int = 64,
        progress: Progress | None = None,
    ) -> ReferenceTrace:
        """Return logits and selections for images (N, 3, H, W), with ``forced`` (N, L) indices where given."""
        import torch

        from aps_deploy.runtimes.torch_session import full_float32

        device = next(self.model.parameters()).device
        parts = []
        with torch.inference_mode(), full_float32(), without_kernels():
            for rows in batches(len(images), batch_size):
                batch = torch.from_numpy(np.array(images[rows])).to(device)
                wanted = None if forced is None else torch.from_numpy(np.array(forced[rows])).to(device)
                trace = self.model.trace_selections(batch, forced=wanted)
                fields = (trace.logits, trace.indices, trace.chosen, trace.margins, trace.scores)
                parts.append([value.cpu().numpy() for value in fields])
                if progress is not None:
                    progress("reference", rows.stop, len(images))
        return ReferenceTrace(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def load_reference(reference: str | os.PathLike[str] | torch.nn.Module) -> CheckpointReference:
    """Return the reference behind a checkpoint, a packaged name or a network made by `create_model`.

    A network in training mode, on another device or of another dtype is copied, never changed.

    Raises:
        InputError: the checkpoint is missing, corrupt or foreign, or the object is no network of this project.
    """
    if isinstance(reference, (str, os.PathLike)):
        from aps_deploy.models import load_checkpoint

        model = load_checkpoint(reference)
        return CheckpointReference(model, os.fspath(reference), model.checkpoint.sha256)
    if not hasattr(reference, "trace_selections"):
        raise InputError(
            f"a {type(reference).__name__} cannot be the reference; give a checkpoint or a network of create_model."
        )
    plain = _in_evaluation(reference)
    checkpoint = getattr(plain, "checkpoint", None)
    if checkpoint is not None:
        return CheckpointReference(plain, checkpoint.path.name, checkpoint.sha256)
    return CheckpointReference(plain, str(plain.spec.name), _hash_of_weights(plain))


def _in_evaluation(model: Any) -> Any:
    import torch

    tensors = [*model.parameters(), *model.buffers()]
    as_wanted = all(
        tensor.device.type == "cpu" and (tensor.dtype == torch.float32 or not tensor.is_floating_point())
        for tensor in tensors
    )
    if as_wanted and not any(module.training for module in model.modules()):
        return model
    return copy.deepcopy(model).to("cpu", torch.float32).eval()


def _hash_of_weights(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
