"""The file a run is resumed from: `last.pt`, loadable with `weights_only=True` and always whole.

It holds tensors and plain Python values only, so that reading it can run no code.
"""

from __future__ import annotations

import dataclasses
import io
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aps_deploy.errors import InputError
from aps_deploy.files import atomic_path
from aps_deploy.models.weights import read_pickle

STATE_FILE = "last.pt"
_FORMAT = 1


@dataclass
class Position:
    """Where a run stands: what a continuation needs besides tensors."""

    epoch: int = 0
    """Epochs that are finished, their validation included."""
    step: int = 0
    """Optimizer steps taken in the epoch after those."""
    loss_sum: float = 0.0
    """Sum over the images seen in that epoch."""
    num_correct: int = 0
    num_seen: int = 0
    num_unreadable: int = 0
    """Images of that epoch that could not be read; the totals leave them out."""
    train_seconds: float = 0.0
    waiting_seconds: float = 0.0
    """Of those, spent waiting for images."""
    best_accuracy: float = -1.0
    best_epoch: int = 0

    def start_epoch(self) -> None:
        """Count the running epoch as finished."""
        self.epoch += 1
        self.step = self.num_correct = self.num_seen = self.num_unreadable = 0
        self.loss_sum = self.train_seconds = self.waiting_seconds = 0.0


def captured_state(
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: nn.Module | None,
    position: Position,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Return copies, on the CPU, of everything a continuation needs; later steps change none of them."""
    return {
        "format": _FORMAT,
        "model": _copied(model.state_dict()),
        "optimizer": _copied(optimizer.state_dict()),
        "scaler": dict(scaler.state_dict()),
        "average": None if average is None else _copied(average.state_dict()),
        "position": dataclasses.asdict(position),
        "random": _random_states(),
        "settings": settings,
    }


def _copied(value: Any) -> Any:
    """Return a copy of nested dictionaries and lists, their tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def write_state(path: Path, document: dict[str, Any]) -> None:
    """Write a captured state; an older file stays valid until the new one is on disk.

    Raises:
        ApsError: the disk is full or the folder cannot be written.
    """
    # Through memory: on a full disk torch.save raises a RuntimeError about positions, a plain write says what it is.
    buffer = io.BytesIO()
    torch.save(document, buffer)
    with atomic_path(path) as temporary:
        # A copy: Python 3.12.1 crashes when a view of the buffer is collected with an error's traceback.
        temporary.write_bytes(buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Return the document that `write_state` wrote, on the CPU.

    Raises:
        InputError: the file is missing, damaged, holds pickled code, or is no training state.
    """
    if not path.is_file():
        raise InputError(
            f"{path} does not exist, so there is nothing to resume; start the run without --resume, in a new --out-dir."
        )
    try:
        document = read_pickle(path)
    except InputError as error:
        raise InputError(f"{path} is no training state that can be read safely: it is damaged or foreign.") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise InputError(f"{path} is no training state of this version; a run is resumed from its own {STATE_FILE}.")
    return document


def _random_states() -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "python": list(random.getstate()),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Set the global generators of torch, numpy and Python to the saved states."""
    torch.set_rng_state(states["torch"])
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in states and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (all devices), numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
