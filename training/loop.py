"""A training run: setup, main, fit.

`setup` checks the settings and the output folder, reads the data and builds or restores the objects; `main` fits and
then evaluates on the test images; `fit` is the epochs, and a signal stops it between two steps with everything saved.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from aps_deploy.errors import InputError
from aps_deploy.files import write_json
from aps_deploy.models import ResNet, create_model, load_checkpoint, load_weights, resolve_arch, save_checkpoint
from aps_deploy.models import spec as model_spec
from aps_deploy.training.curves import CURVES_FILE, save_curves
from aps_deploy.training.data import TrainData, load_data
from aps_deploy.training.interrupt import StopRequest
from aps_deploy.training.metrics import METRICS_FILE, append_metrics, keep_epochs, read_metrics
from aps_deploy.training.precision import find_arithmetic, find_device
from aps_deploy.training.process import Process
from aps_deploy.training.progress import Progress
from aps_deploy.training.recipes import Recipe, recipe_for
from aps_deploy.training.schedule import Schedule
from aps_deploy.training.settings import TrainSettings, continued
from aps_deploy.training.state import (
    STATE_FILE,
    Position,
    load_state,
    restore_random_states,
    save_state,
    seed_everything,
)
from aps_deploy.training.step import Trainer, train_epoch
from aps_deploy.training.validate import Validation, validate

_LOGGER = logging.getLogger(__name__)

LAST_FILE = "last.safetensors"
BEST_FILE = "best.safetensors"
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    out_dir: Path
    epochs: int
    """Epochs that are finished."""
    num_epochs: int
    """Epochs that were asked for."""
    metrics: dict[str, Any]
    """The last line of the metrics file; empty before the first epoch ends."""
    best_epoch: int
    """Epoch of `best.safetensors`."""
    test: Validation | None
    """Measured on the test images with `best.safetensors`; None without test images or when interrupted."""
    interrupted_by: str | None
    """`SIGINT` or `SIGTERM` when the run was stopped, with everything saved; else None."""

    @property
    def checkpoint(self) -> Path:
        """The checkpoint to use: `best.safetensors`."""
        return self.out_dir / BEST_FILE


@dataclass
class Run:
    """Everything a run works with, built by `setup`."""

    settings: TrainSettings
    recipe: Recipe
    data: TrainData
    trainer: Trainer
    out_dir: Path
    position: Position = field(default_factory=Position)
    process: Process = field(default_factory=Process)


def run_training(settings: TrainSettings) -> TrainResult:
    """Train a network, or continue an interrupted run, and return how it ended.

    `out_dir` then holds `settings.json`, `metrics.jsonl`, `curves.png`, the training state `last.pt`, and
    `last.safetensors` and `best.safetensors`, which `aps-deploy evaluate`, `export` and `verify` take. The best
    checkpoint is the one with the highest validation accuracy (the first of equals); where the only images to
    validate on are the test images, it is the last one, so that nothing is chosen by the test set.

    Raises:
        InputError: settings that do not fit together, unknown architecture, missing data, an image size the network
            cannot take, an output folder in use, nothing to resume.
        ApsError: the loss became NaN or infinite, or the disk is full.
    """
    run, stored = setup(settings)
    return main(run, stored)


def setup(settings: TrainSettings) -> tuple[Run, dict[str, Any] | None]:
    """Return the objects of a run and, when it is resumed, the state to go on from; nothing is written yet."""
    out_dir = settings.out_dir
    if settings.evaluate or out_dir is None:
        raise InputError("--evaluate trains nothing; call evaluate_files instead of run_training.")
    stored = None
    if settings.resume:
        stored = load_state(out_dir / STATE_FILE)
        settings = continued(settings, stored["settings"])
    else:
        _check_out_dir(out_dir)
    if settings.arch is None or settings.data is None:
        raise InputError(f"{out_dir / STATE_FILE} names no architecture or data; start a new run.")
    name = resolve_arch(settings.arch, filter_size=settings.filter_size, recipe=settings.recipe)
    architecture = model_spec(name)
    recipe = recipe_for(settings, architecture.family)
    check_image_size(recipe.image_size, architecture.size_divisor, architecture.min_size, name)
    arithmetic = find_arithmetic(recipe.precision, find_device(settings.device))
    data = load_data(
        settings.data, recipe, download=bool(settings.download), max_train_images=settings.max_train_images
    )
    seed_everything(recipe.seed)
    model = _build_model(settings, name, len(data.class_names), stored).to(arithmetic.device)
    channels_last = settings.channels_last
    if channels_last is None:
        channels_last = arithmetic.device.type == "cuda"
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    process = Process()
    steps_per_epoch = -(-len(data.train) // recipe.batch_size)
    trainer = Trainer(
        model=model,
        forward=torch.compile(model) if settings.compile else model,
        optimizer=_build_optimizer(model, recipe),
        scaler=arithmetic.scaler(),
        arithmetic=arithmetic,
        schedule=Schedule(
            recipe.schedule,
            recipe.learning_rate,
            recipe.epochs,
            steps_per_epoch,
            recipe.step_epochs,
            recipe.step_factor,
            recipe.warmup_share,
        ),
        recipe=recipe,
        channels_last=channels_last,
        process=process,
    )
    return Run(settings, recipe, data, trainer, out_dir, process=process), stored


def main(run: Run, stored: dict[str, Any] | None) -> TrainResult:
    """Fit from the start or from a stored state, test, and return the result."""
    run.out_dir.mkdir(parents=True, exist_ok=True)
    if stored is None:
        write_json(run.out_dir / SETTINGS_FILE, run.settings.to_dict())
    else:
        _restore(run, stored)
    with StopRequest() as stop, Progress(run.settings.progress) as progress:
        fit(run, stop, progress)
        finished = run.position.epoch == run.recipe.epochs
        test = _test_best(run, stop, progress) if finished else None
    metrics_path = run.out_dir / METRICS_FILE
    records = read_metrics(metrics_path) if metrics_path.is_file() else []
    return TrainResult(
        run.out_dir,
        run.position.epoch,
        run.recipe.epochs,
        records[-1] if records else {},
        run.position.best_epoch,
        test,
        stop.signal_name,
    )


def fit(run: Run, stop: StopRequest, progress: Progress) -> None:
    """Run the remaining epochs, each followed by validation, one line of metrics and checkpoints."""
    trainer, position, data = run.trainer, run.position, run.data
    while position.epoch < run.recipe.epochs and not stop:
        progress.start(f"epoch {position.epoch + 1}/{run.recipe.epochs}", len(data.train), position.num_seen)

        def on_step(current: Position) -> bool:
            loss = current.loss_sum / max(current.num_seen, 1)
            progress.update(current.num_seen, f"loss {loss:.3f}")
            return bool(stop)

        complete = train_epoch(trainer, data.train, position, on_step=on_step)
        validation = _validate(run, stop, progress) if complete else None
        if not complete or (validation is None and data.validation is not None):
            _save(run, "interrupted")
            _LOGGER.warning("stopped by %s; continue with --resume --out-dir %s", stop.signal_name, run.out_dir)
            return
        _finish_epoch(run, validation)


def _finish_epoch(run: Run, validation: Validation | None) -> None:
    position = run.position
    record = _record(run, validation)
    accuracy = None if run.data.validation_is_test or validation is None else validation.accuracy
    is_best = accuracy is None or accuracy > position.best_accuracy
    if is_best:
        position.best_epoch = position.epoch + 1
        position.best_accuracy = -1.0 if accuracy is None else accuracy
    position.start_epoch()
    if not run.process.is_main:
        return
    # The line first, the state last: a run killed in between repeats the epoch and its line is dropped on resume.
    append_metrics(run.out_dir / METRICS_FILE, record)
    _save(run, "epoch", record=record, is_best=is_best)
    save_curves(run.out_dir / CURVES_FILE, read_metrics(run.out_dir / METRICS_FILE))
    shown = ", ".join(f"{key} {value:.4g}" for key, value in record.items() if isinstance(value, float))
    _LOGGER.info("epoch %d: %s", position.epoch, shown)


def _record(run: Run, validation: Validation | None) -> dict[str, Any]:
    position, trainer = run.position, run.trainer
    last_step = position.epoch * trainer.schedule.steps_per_epoch + position.step - 1
    record: dict[str, Any] = {
        "epoch": position.epoch + 1,
        "learning_rate": trainer.schedule.at(last_step),
        "train_loss": position.loss_sum / position.num_seen,
        "train_accuracy": position.num_correct / position.num_seen,
        "train_seconds": round(position.train_seconds, 3),
        "images_per_second": round(position.num_seen / max(position.train_seconds, 1e-9), 1),
    }
    if validation is not None:
        record["validation_loss"] = validation.loss
        record["validation_accuracy"] = validation.accuracy
        if validation.consistency is not None:
            record["validation_consistency"] = validation.consistency
        record["validation_images"] = "test" if run.data.validation_is_test else "validation"
    return record


def _validate(run: Run, stop: StopRequest, progress: Progress) -> Validation | None:
    if run.data.validation is None:
        return None
    shift_limit = run.recipe.circular_shift if run.settings.validate_consistency else None
    progress.start("validation", len(run.data.validation), 0)

    def on_batch(num_done: int) -> bool:
        progress.update(num_done, "")
        return bool(stop)

    return validate(
        run.trainer.model,
        run.data.validation,
        run.data.preprocessing,
        run.trainer.arithmetic.device,
        batch_size=run.recipe.batch_size,
        shift_limit=shift_limit,
        on_batch=on_batch,
    )


def _test_best(run: Run, stop: StopRequest, progress: Progress) -> Validation | None:
    if run.data.test is None or stop:
        return None
    model = load_checkpoint(run.out_dir / BEST_FILE).to(run.trainer.arithmetic.device)
    progress.start("test", len(run.data.test), 0)

    def on_batch(num_done: int) -> bool:
        progress.update(num_done, "")
        return bool(stop)

    return validate(
        model,
        run.data.test,
        run.data.preprocessing,
        run.trainer.arithmetic.device,
        batch_size=run.recipe.batch_size,
        shift_limit=run.recipe.circular_shift,
        on_batch=on_batch,
    )


def _save(run: Run, reason: str, *, record: dict[str, Any] | None = None, is_best: bool = False) -> None:
    if not run.process.is_main:
        return
    trainer = run.trainer
    training = {
        "recipe": run.settings.recipe,
        "settings": shareable_settings(run.settings),
        "epochs": run.position.epoch,
        "steps_in_epoch": run.position.step,
        "num_epochs": run.recipe.epochs,
        "precision": trainer.arithmetic.name,
        "metrics": record,
    }
    names = [LAST_FILE, BEST_FILE] if is_best else [LAST_FILE]
    for name in names:
        save_checkpoint(
            run.out_dir / name,
            trainer.model,
            preprocessing=run.data.preprocessing,
            class_names=run.data.class_names,
            training=training,
        )
    save_state(
        run.out_dir / STATE_FILE,
        model=trainer.model,
        optimizer=trainer.optimizer,
        scaler=trainer.scaler,
        position=run.position,
        settings=run.settings.to_dict(),
        model_arguments=trainer.model.arguments,
    )
    _LOGGER.debug("saved (%s) to %s", reason, run.out_dir)


def shareable_settings(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that were given, without paths: a checkpoint travels, the machine's folders do not."""
    private = {"data", "out_dir", "weights", "resume", "evaluate", "progress", "workers", "download"}
    return {key: value for key, value in settings.to_dict().items() if value is not None and key not in private}


def _restore(run: Run, stored: dict[str, Any]) -> None:
    run.position = Position(**stored["position"])
    run.trainer.optimizer.load_state_dict(stored["optimizer"])
    run.trainer.scaler.load_state_dict(stored["scaler"])
    restore_random_states(stored["random"])
    keep_epochs(run.out_dir / METRICS_FILE, run.position.epoch)


def _build_model(settings: TrainSettings, name: str, num_classes: int, stored: dict[str, Any] | None) -> ResNet:
    choices = {
        "criterion": settings.criterion,
        "selection": settings.selection,
        "pool_only": settings.pool_only,
        "padding": settings.padding,
    }
    given = {key: value for key, value in choices.items() if value is not None}
    model = create_model(name, num_classes=num_classes, **given)
    if stored is not None:
        model.load_state_dict(stored["model"])
    elif settings.weights is not None:
        load_weights(model, settings.weights)
    return model


def _build_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


def _check_out_dir(out_dir: Path) -> None:
    if out_dir.is_dir() and any(os.scandir(out_dir)):
        hint = " add --resume to continue its run, or" if (out_dir / STATE_FILE).is_file() else ""
        raise InputError(f"the output folder {out_dir} exists and is not empty;{hint} give a new --out-dir.")
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"--out-dir {out_dir} is a file; give the name of a new folder.")


def check_image_size(image_size: int, size_divisor: int, min_size: int, name: str) -> None:
    """Raise InputError, naming the next valid size, where a network cannot take square images of `image_size`."""
    if image_size % size_divisor or image_size < min_size:
        valid = max(-(-image_size // size_divisor) * size_divisor, min_size)
        raise InputError(
            f"--image-size {image_size} does not fit {name}: sides must be multiples of {size_divisor}, at least "
            f"{min_size}; the next valid size is {valid}."
        )
