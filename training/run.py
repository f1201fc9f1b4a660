"""The objects of a run, and when and what of them is saved."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aps_deploy.files import write_json
from aps_deploy.training.data import TrainData
from aps_deploy.training.images import LabelledImages
from aps_deploy.training.outputs import NON_FINITE_FILE, Snapshot, snapshot
from aps_deploy.training.process import Process
from aps_deploy.training.settings import TrainSettings
from aps_deploy.training.state import Position
from aps_deploy.training.step import NonFiniteLoss, Trainer
from aps_deploy.training.writer import BackgroundWriter

_CHECKPOINT_SECONDS = 300.0


@dataclass
class Run:
    """Everything a run works with, built by `setup`."""

    settings: TrainSettings
    data: TrainData
    trainer: Trainer
    out_dir: Path
    position: Position = field(default_factory=Position)
    writer: BackgroundWriter = field(default_factory=BackgroundWriter)
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def num_epochs(self) -> int:
        """Epochs that were asked for."""
        return self.trainer.recipe.epochs

    @property
    def process(self) -> Process:
        """This process among those that train."""
        return self.trainer.process

    @property
    def is_save_due(self) -> bool:
        """Whether this process is to save the running epoch now; never where it would wait for the save before."""
        interval = self.settings.checkpoint_seconds
        interval = _CHECKPOINT_SECONDS if interval is None else interval
        return self.process.is_main and not self.writer.is_busy and time.monotonic() - self.saved_at >= interval

    def snapshot(self, *, with_network: bool, metrics: dict[str, Any] | None = None) -> Snapshot:
        """Return copies of where the run stands."""
        self.saved_at = time.monotonic()
        return snapshot(
            self.out_dir,
            self.trainer,
            self.data,
            self.position,
            self.settings,
            with_network=with_network,
            metrics=metrics,
        )

    def before_fetching(self, images: LabelledImages) -> None:
        """Finish writing before loader processes are forked: a thread's locks would stay locked in them for ever."""
        if images.starts_processes:
            self.process.on_main(self.writer.wait)

    def save_if_due(self) -> None:
        """Start saving the running epoch where its time has come; call it where `position` counts every step."""
        if self.is_save_due:
            self.writer.submit(self.snapshot(with_network=False).write)

    def describe_loss(self, error: NonFiniteLoss) -> None:
        """Write what led to a loss that is not finite: a batch may be too long for a message."""
        found = {name: getattr(error, name) for name in ("epoch", "step", "learning_rate", "images")}
        self.process.on_main(lambda: write_json(self.out_dir / NON_FINITE_FILE, found))
