"""A training run: setup, main, fit.

`setup` checks the settings and the output folder, reads the data and builds or restores the objects; `main` fits and
then tests the best checkpoint; `fit` is the epochs, and a signal stops it between two steps with everything saved.
"""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aps_deploy.errors import ApsError, InputError
from aps_deploy.files import write_json
from aps_deploy.models import SelectingNetwork, load_checkpoint, load_weights, network_spec
from aps_deploy.models.network import NetworkSpec
from aps_deploy.progress_bar import Progress
from aps_deploy.training.agreement import check_same_position, check_shared, resumed_after_restart
from aps_deploy.training.build import architecture_name, build_model, build_trainer, check_network, weights_file
from aps_deploy.training.curves import CURVES_FILE, save_curves
from aps_deploy.training.data import TrainData, find_data
from aps_deploy.training.images import LabelledImages
from aps_deploy.training.interrupt import StopRequest
from aps_deploy.training.metrics import METRICS_FILE, append_metrics, keep_epochs, last_metrics, read_metrics
from aps_deploy.training.outputs import BEST_FILE, SETTINGS_FILE, check_out_dir, owned_out_dir
from aps_deploy.training.precision import Arithmetic, find_arithmetic, find_device, without_tf32
from aps_deploy.training.process import Process, joined_processes
from aps_deploy.training.recipes import Recipe, recipe_for, recipe_name
from aps_deploy.training.run import Run
from aps_deploy.training.settings import TrainSettings, continued
from aps_deploy.training.sources import too_many_unreadable
from aps_deploy.training.state import STATE_FILE, Position, load_state, restore_random_states, seed_everything
from aps_deploy.training.step import NonFiniteLoss, train_epoch
from aps_deploy.training.validate import Validation, validate

_LOGGER = logging.getLogger(__name__)


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
    """Epoch of `best.safetensors`; 0 before the first epoch ends."""
    test: Validation | None
    """Measured on the test images with `best.safetensors`; None without test images or when interrupted."""
    interrupted_by: str | None
    """`SIGINT` or `SIGTERM` when the run was stopped, with everything saved; else None."""
    is_main: bool = True
    """Whether this process speaks for the run."""
    precision: str | None = None
    """Number format of the steps, which `auto` chooses by the machine; None of a run that ended before it was known."""

    @property
    def checkpoint(self) -> Path:
        """The checkpoint to use: `best.safetensors`."""
        return self.out_dir / BEST_FILE


def run_training(settings: TrainSettings) -> TrainResult:
    """Train a network, or continue an interrupted run, and return how it ended.

    Processes that a launcher started again, because one of them died, continue their run without being told to.
    `out_dir` then holds `settings.json`, `metrics.jsonl`, `curves.png`, the training state `last.pt`, and
    `last.safetensors` and `best.safetensors`, which `aps-deploy evaluate`, `export` and `verify` take. The best
    checkpoint is the one with the highest validation accuracy (the first of equals); where the only images to
    validate on are the test images, it is the last one, so that nothing is chosen by the test set.

    Raises:
        InputError: settings that do not fit together, unknown architecture, missing data, an image size the network
            cannot take, an output folder in use, nothing to resume.
        ApsError: the loss became NaN or infinite, or the disk is full.
    """
    with joined_processes(settings.device, settings.dist_backend) as process:
        if not process.is_main:
            logging.getLogger("aps_deploy").setLevel(logging.ERROR)
        run, stored = setup(settings, process)
        return main(run, stored)


def setup(settings: TrainSettings, process: Process | None = None) -> tuple[Run, dict[str, Any] | None]:
    """Return the objects of a run and, when it is resumed, the state to go on from; nothing is written yet."""
    process = process or Process()
    out_dir = settings.out_dir
    if settings.evaluate or out_dir is None:
        raise InputError("--evaluate trains nothing; use evaluate_run instead of run_training.")
    settings = resumed_after_restart(settings, process)
    if settings.resume:
        check_shared(out_dir, process)  # before every process reads the state there
    if settings.download and not process.is_alone:
        process.on_main(lambda: _download(settings))
    parts = process.together(lambda: _read(settings, process))
    if parts.stored is not None:
        check_same_position(Position(**parts.stored["position"]), out_dir, process)
    trainer = build_trainer(
        parts.model,
        parts.recipe,
        parts.arithmetic,
        num_images=len(parts.data.train),
        channels_last=parts.settings.channels_last,
        compile_model=bool(parts.settings.compile),
        process=process,
        gathers_statistics=bool(parts.settings.sync_batch_norm),
    )
    return Run(parts.settings, parts.data, trainer, out_dir), parts.stored


@dataclass(frozen=True)
class _Parts:
    """What a run is built from."""

    settings: TrainSettings
    recipe: Recipe
    arithmetic: Arithmetic
    model: SelectingNetwork
    data: TrainData
    stored: dict[str, Any] | None


def checked(settings: TrainSettings) -> tuple[NetworkSpec, Recipe]:
    """Return the architecture and the recipe of a run; no data is read.

    Raises:
        InputError: settings that do not fit each other, the architecture or the recipe.
    """
    architecture = network_spec(architecture_name(settings))
    recipe = recipe_for(settings, architecture.family)
    architecture.check_size(recipe.image_size, recipe.image_size, settings.padding or "circular")
    check_network(settings, architecture.name)
    return architecture, recipe


def _read(settings: TrainSettings, process: Process) -> _Parts:
    """Check the settings, read the data and make the network; all that can be refused is refused here."""
    stored, out_dir = None, settings.out_dir
    assert out_dir is not None
    if settings.resume:
        stored = load_state(out_dir / STATE_FILE)
        settings = continued(settings, stored["settings"])
    elif process.is_main:
        check_out_dir(out_dir)
    architecture, recipe = checked(settings)
    arithmetic = find_arithmetic(recipe.precision, process.device(find_device(settings.device)))
    if settings.data is None:
        raise InputError("--data is missing; give a folder with train/<class>/ and val/ or test/.")
    found = find_data(settings.data, recipe, download=bool(settings.download))
    if "val" in found.parts and (settings.holdout or settings.train_split):
        raise InputError(f"{settings.data} has val/ for validation, so leave --holdout and --train-split out.")
    if recipe.batch_size < process.world_size:
        raise InputError(
            f"--batch-size is {recipe.batch_size} for {process.world_size} processes; give each at least one image."
        )
    seed_everything(recipe.seed)
    torch.backends.cudnn.deterministic = bool(settings.deterministic)
    model = build_model(settings, architecture.name, num_classes=len(found.class_names))
    _fill_weights(model, settings, stored)
    # Decoding may take minutes, so it comes after everything that can be refused.
    data = found.load(max_train_images=settings.max_train_images)
    _LOGGER.info(
        "network %s with recipe %s, on %s in %s%s",
        architecture.name,
        recipe_name(settings, architecture.family),
        arithmetic.device,
        arithmetic.name,
        "" if process.is_alone else f", in {process.world_size} processes",
    )
    return _Parts(settings, recipe, arithmetic, model, data, stored)


def _download(settings: TrainSettings) -> None:
    """Fetch the data set once, before several processes look for it."""
    if settings.resume and settings.out_dir is not None:
        settings = continued(settings, load_state(settings.out_dir / STATE_FILE)["settings"])
    recipe = recipe_for(settings, network_spec(architecture_name(settings)).family)
    if settings.data is not None:
        find_data(settings.data, recipe, download=True)


def main(run: Run, stored: dict[str, Any] | None) -> TrainResult:
    """Fit from the start or from a stored state, test, and return the result."""
    process = run.process
    with (
        ExitStack() as owned,
        StopRequest(is_patient=not process.is_alone) as stop,
        Progress(run.settings.progress if process.is_main else False) as progress,
        without_tf32(),
    ):
        process.on_main(lambda: owned.enter_context(owned_out_dir(run.out_dir, is_new=stored is None)))
        if stored is None:
            check_shared(run.out_dir, process)
        owned.enter_context(run.writer)
        if stored is not None:
            _restore(run, stored)
        else:
            process.on_main(lambda: _write_start(run))
        fit(run, stop, progress)
        process.on_main(run.writer.wait)
        test = None
        if run.position.epoch == run.num_epochs and run.data.test is not None and not process.any(bool(stop)):
            best = process.together(lambda: load_checkpoint(run.out_dir / BEST_FILE))
            best = best.to(run.trainer.arithmetic.device)
            test = _measure(run, best, "test", run.data.test, stop, progress, with_shifts=True)
    position = run.position
    return TrainResult(
        run.out_dir,
        position.epoch,
        run.num_epochs,
        last_metrics(run.out_dir / METRICS_FILE),
        position.best_epoch,
        test,
        stop.signal_name,
        process.is_main,
        run.trainer.arithmetic.name,
    )


def _write_start(run: Run) -> None:
    # The state first, so that whatever stops the first epoch leaves a folder that --resume accepts.
    run.snapshot(with_network=False).write()
    write_json(run.out_dir / SETTINGS_FILE, run.settings.to_dict())


def fit(run: Run, stop: StopRequest, progress: Progress) -> None:
    """Run the remaining epochs, each followed by validation, one line of metrics and checkpoints."""
    position, data = run.position, run.data
    while position.epoch < run.num_epochs and not run.process.any(bool(stop)):
        complete = _train_epoch(run, stop, progress)
        validation = None
        if complete and data.validation is not None:
            with_shifts = bool(run.settings.validate_consistency)
            run.trainer.take_statistics_of_main()
            validation = _measure(
                run, run.trainer.result, "validation", data.validation, stop, progress, with_shifts=with_shifts
            )
            # Stopped while validating: the epoch is finished on resume, with no step left to take.
            complete = validation is not None
        if not complete:
            run.process.on_main(run.writer.wait)  # raises where it was a save that stopped the run
            stop.follow()
            run.process.on_main(lambda: run.snapshot(with_network=True).write())
            _LOGGER.warning("stopped by %s in epoch %d, saved", stop.signal_name, position.epoch + 1)
            return
        if validation is not None and not math.isfinite(validation.loss):
            raise ApsError(
                f"the validation loss is {validation.loss} after epoch {position.epoch + 1}; the last checkpoint is "
                "from before that epoch. Try a smaller --learning-rate or --precision float32."
            )
        _finish_epoch(run, validation)


def _train_epoch(run: Run, stop: StopRequest, progress: Progress) -> bool:
    """Take the remaining steps of the epoch, saving now and then; return whether none is left."""
    position, data = run.position, run.data

    def on_step(current: Position) -> bool:
        progress.update(current.num_seen, f"loss {current.loss_sum / max(current.num_seen, 1):.3f}")
        return bool(stop) or run.writer.has_failed

    progress.start(f"epoch {position.epoch + 1}/{run.num_epochs}", len(data.train), position.num_seen)
    run.before_fetching(data.train)
    try:
        return train_epoch(run.trainer, data.train, position, on_step=on_step, on_settled=run.save_if_due)
    except NonFiniteLoss as error:
        run.describe_loss(error)
        raise


def _finish_epoch(run: Run, validation: Validation | None) -> None:
    position = run.position
    record = _record(run, validation)
    accuracy = None if run.data.validation_is_test or validation is None else validation.accuracy
    is_best = accuracy is None or accuracy > position.best_accuracy
    if is_best:
        position.best_epoch = position.epoch + 1
        position.best_accuracy = -1.0 if accuracy is None else accuracy
    position.start_epoch()
    run.process.on_main(lambda: _write_epoch(run, record, is_best=is_best))


def _write_epoch(run: Run, record: dict[str, Any], *, is_best: bool) -> None:
    taken = run.snapshot(with_network=True, metrics=record)

    def write() -> None:
        # The line first, the state last: a run killed in between repeats the epoch, and resuming drops the line.
        append_metrics(run.out_dir / METRICS_FILE, record)
        taken.write(is_best=is_best)
        save_curves(run.out_dir / CURVES_FILE, read_metrics(run.out_dir / METRICS_FILE))

    run.writer.submit(write)
    shown = ", ".join(f"{key} {value:.4g}" for key, value in record.items() if isinstance(value, float))
    _LOGGER.info("epoch %d: %s", run.position.epoch, shown)


def _record(run: Run, validation: Validation | None) -> dict[str, Any]:
    position, schedule = run.position, run.trainer.schedule
    record: dict[str, Any] = {
        "epoch": position.epoch + 1,
        "learning_rate": schedule.at(position.epoch * schedule.steps_per_epoch + position.step - 1),
        "train_loss": position.loss_sum / max(position.num_seen, 1),
        "train_accuracy": position.num_correct / max(position.num_seen, 1),
        "train_seconds": round(position.train_seconds, 3),
        "waiting_share": round(position.waiting_seconds / max(position.train_seconds, 1e-9), 4),
        "images_per_second": round(position.num_seen / max(position.train_seconds, 1e-9), 1),
    }
    if position.num_unreadable:
        record["train_unreadable"] = position.num_unreadable
    if validation is not None:
        if validation.num_unreadable:
            record["validation_unreadable"] = validation.num_unreadable
        record["validation_loss"] = validation.loss
        record["validation_accuracy"] = validation.accuracy
        if validation.consistency is not None:
            record["validation_consistency"] = validation.consistency
        record["validation_images"] = "test" if run.data.validation_is_test else "validation"
    return record


def _measure(
    run: Run,
    model: SelectingNetwork,
    title: str,
    images: LabelledImages,
    stop: StopRequest,
    progress: Progress,
    *,
    with_shifts: bool,
) -> Validation | None:
    """Return the validation of a model, or None when the run was stopped meanwhile."""
    run.before_fetching(images)
    progress.start(title, len(images), 0)

    def on_batch(num_done: int) -> bool:
        progress.update(num_done, "")
        return bool(stop) or run.writer.has_failed

    recipe = run.trainer.recipe
    found = validate(
        model,
        images,
        run.data.preprocessing,
        run.trainer.arithmetic.device,
        batch_size=recipe.batch_size,
        shift_limit=recipe.circular_shift if with_shifts else None,
        on_batch=on_batch,
        process=run.process,
    )
    if found is not None and found.num_unreadable > recipe.max_unreadable_images:
        # The number is the sum over the processes, so all of them are here; the image may be known to one only.
        raise too_many_unreadable(run.process.gather(images.unreadable[-1:]), recipe.max_unreadable_images)
    return found


def _fill_weights(model: SelectingNetwork, settings: TrainSettings, stored: dict[str, Any] | None) -> None:
    if stored is not None:
        model.load_state_dict(stored["model"])
    elif settings.weights is not None:
        load_weights(model, weights_file(settings.weights))


def _restore(run: Run, stored: dict[str, Any]) -> None:
    run.position = Position(**stored["position"])
    run.trainer.optimizer.load_state_dict(stored["optimizer"])
    run.trainer.scaler.load_state_dict(stored["scaler"])
    if run.trainer.average is not None:
        run.trainer.average.load_state_dict(stored["average"])
    restore_random_states(stored["random"])
    if run.position.step:
        _LOGGER.info("continuing epoch %d after step %d", run.position.epoch + 1, run.position.step)
    run.process.on_main(lambda: _mend(run))


def _mend(run: Run) -> None:
    """Bring the files beside the state to where it stands: a kill may have come between them."""
    keep_epochs(run.out_dir / METRICS_FILE, run.position.epoch)
    if not (run.out_dir / SETTINGS_FILE).is_file():
        write_json(run.out_dir / SETTINGS_FILE, run.settings.to_dict())
