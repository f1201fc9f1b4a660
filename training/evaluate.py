"""Accuracy and shift consistency of a checkpoint or an ONNX file: what `aps-deploy evaluate` measures.

Two consistencies: an authors' protocol (two random shifts per batch of 256, all images), whose numbers compare with
the paper's, and every shift of a set on a sample of the images, with the share of bit-identical logits. Torch is not
needed for ONNX files.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aps_deploy.errors import InputError
from aps_deploy.files import read_json
from aps_deploy.packaged import packaged_models
from aps_deploy.predict import choose_preprocessing
from aps_deploy.preprocessing import Preprocessing
from aps_deploy.progress_bar import Progress
from aps_deploy.runtimes import ModelMetadata, Session, open_session
from aps_deploy.runtimes.opening import CHECKPOINT_SUFFIXES, ONNX_SUFFIXES, PLAN_SUFFIXES
from aps_deploy.training.evaluation_images import EvaluationImages, UnreadableImage, find_evaluation_images
from aps_deploy.training.recipes import RECIPES
from aps_deploy.training.settings import TrainSettings, flag
from aps_deploy.verification.authors import (
    PROTOCOLS,
    AuthorsConsistency,
    AuthorsProtocol,
    ProtocolName,
    authors_consistency,
)
from aps_deploy.verification.consistency import Consistency, measure_consistency
from aps_deploy.verification.shifts import ShiftSet, shift_set

if TYPE_CHECKING:
    from aps_deploy.models import SelectingNetwork

_CIFAR_LARGEST_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """All choices of one evaluation.

    Raises:
        InputError: a value out of range; the message names the flag.
    """

    model: str | Path
    """A checkpoint, a packaged model's name, or an ONNX file."""
    data: Path
    """Folder with `test/` or `val/`, a folder of class folders or of shards, or torchvision's CIFAR-10."""
    split: Literal["auto", "test", "val", "train"] = "auto"
    """Part of `data`; `auto` takes test, else val, else the folder itself."""
    images: int | None = None
    """Evaluate this many images, spread over the classes (default all)."""
    max_unreadable_images: int | None = None
    """So many images that cannot be read are left out (default as in training: 0, for inputs above 64 pixels 100)."""
    protocol: ProtocolName | None = None
    """The authors' protocol: `cifar` (shifts of -3 to 2 pixels) or `imagenet` (-32 to 31), by default by the size of
    the input; `cifar-crop` shifts by cropping a padded image, `cifar-erase` and `cifar-flip` change images first."""
    erased_side: int | None = None
    """Side in pixels of the square that protocol `cifar-erase` blanks (default the authors' 3)."""
    shifts: str | int = "group"
    """Shifts tried on every image of the sample: `group`, `all`, a number, or `none`."""
    shift_images: int = 256
    """Images of the sample on which all shifts are tried."""
    batch_size: int = 64
    """Images per run of the model; the protocol's batches of 256 are counted apart."""
    preprocessing: str | None = None
    """Name of a preprocessing, for a file that carries none."""
    runtime: str | None = None
    """Name of a runtime, see `runtimes.availability` (default by the kind of file)."""
    device: str | None = None
    """`cpu` or `cuda` (default: CUDA where it works)."""
    seed: int = 0
    """Seed of the protocol's shifts and of the samples; the authors' is 0."""
    progress: bool | None = None
    """Progress bar on stderr (default: where stderr is a terminal)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", Path(self.data))
        for name in ("images", "shift_images", "batch_size", "erased_side"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
        if self.max_unreadable_images is not None and self.max_unreadable_images < 0:
            raise InputError(f"--max-unreadable-images is {self.max_unreadable_images}; it must be at least 0.")
        if self.erased_side is not None and self.protocol != "cifar-erase":
            raise InputError("--erased-side belongs to --protocol cifar-erase; give both, or neither.")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed is {self.seed}; it must be at least 0 and below 2**32.")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation measured, and on what."""

    model: str
    architecture: str | None
    runtime: str
    device: str
    providers: tuple[str, ...]
    split: str
    num_images: int
    num_unreadable: int
    """Images that were left out because they cannot be read."""
    accuracy_percent: float | None
    """None for images without labels."""
    authors: AuthorsConsistency
    shifts: ShiftSet | None
    """None where no set of shifts was tried."""
    consistency: Consistency | None

    def to_dict(self) -> dict[str, Any]:
        """Return the measurements as plain JSON values."""
        own = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("authors", "shifts", "consistency")
        }
        return {
            **own,
            "providers": list(self.providers),
            "authors": self.authors.to_dict(),
            "shifts": None if self.shifts is None else self.shifts.to_dict(),
            "consistency": None if self.consistency is None else self.consistency.to_dict(),
        }

    def _accuracy_name(self) -> str:
        changes = {"none": "", "erase": " with a square erased", "flip": " of the mirrored images"}
        return "accuracy" + changes[self.authors.protocol.change]

    def rows(self) -> list[tuple[str, str]]:
        """Return name and value of each line of a table for people."""
        protocol = self.authors.protocol
        left_out = f", {self.num_unreadable} left out that cannot be read" if self.num_unreadable else ""
        rows = [
            ("model", f"{self.model} ({self.architecture or 'another tool'}), {self.runtime} on {self.device}"),
            ("images", f"{self.num_images} ({self.split}){left_out}"),
            (self._accuracy_name(), "no labels" if self.accuracy_percent is None else f"{self.accuracy_percent:.2f} %"),
            (
                f"consistency, authors' protocol {protocol.name} ({protocol.low} to {protocol.high - 1} pixels)",
                f"{self.authors.consistency_percent:.2f} %",
            ),
        ]
        if self.consistency is not None and self.shifts is not None:
            where = f"{self.consistency.num_images} images, {self.shifts.describe()}"
            rows += [
                (f"consistency, {where}", f"{self.consistency.top1_percent:.2f} %"),
                ("bit-identical logits, same pairs", f"{self.consistency.identical_pairs_percent:.2f} %"),
                ("largest logit change", f"{self.consistency.max_logit_change:.3g}"),
            ]
        return rows


def evaluate(settings: EvaluateSettings) -> Evaluation:
    """Return accuracy and consistencies of a model file.

    Raises:
        InputError: the model or the data cannot be read, or do not fit each other.
        ApsError: the runtime failed.
    """
    with open_session(settings.model, runtime=settings.runtime, device=settings.device) as session:
        preprocessing = choose_preprocessing(settings.preprocessing, session.metadata, session.source)
        return _evaluate(session, settings, preprocessing, str(settings.model), session.metadata.class_names)


def evaluate_run(
    settings: TrainSettings, *, protocol: ProtocolName | None = None, erased_side: int | None = None
) -> Evaluation:
    """Return the evaluation of `aps-deploy train --evaluate`.

    Evaluated are the `weights`, which may be other people's (what their keys leave open, `arch` and the other options
    of the network say), or with `resume` the best checkpoint of the run in `out_dir`. `protocol` and `erased_side` are
    those of `EvaluateSettings`.

    Raises:
        InputError: as `evaluate`, or weights of others that do not fit the options.
    """
    weights, data, device = settings.weights, settings.data, settings.device
    if weights is None:
        if settings.out_dir is None:
            raise InputError("--evaluate needs a checkpoint: give --weights FILE, or --resume with --out-dir.")
        weights, data = _best_of_run(settings.out_dir, data)
    if data is None:
        raise InputError("--data is missing; give a folder with test/ or val/ class folders.")
    chosen = EvaluateSettings(
        model=weights,
        data=data,
        device=device,
        progress=settings.progress,
        protocol=protocol,
        erased_side=erased_side,
        max_unreadable_images=settings.max_unreadable_images,
    )
    if settings.batch_size is not None:
        chosen = dataclasses.replace(chosen, batch_size=settings.batch_size)
    if weights.suffix in (*CHECKPOINT_SUFFIXES, *ONNX_SUFFIXES, *PLAN_SUFFIXES) or str(weights) in packaged_models():
        _refuse_network_options(settings, weights)
        return evaluate(chosen)
    model, preprocessing = _foreign_model(weights, settings)
    with open_session(model, device=device) as session:
        return _evaluate(session, chosen, preprocessing, str(weights), None)


def _best_of_run(out_dir: Path, data: Path | None) -> tuple[Path, Path | None]:
    from aps_deploy.training.outputs import BEST_FILE, SETTINGS_FILE

    best = out_dir / BEST_FILE
    if not best.is_file():
        raise InputError(f"{best} does not exist: the run has finished no epoch; continue it with --resume.")
    stored = read_json(out_dir / SETTINGS_FILE).get("data") if data is None else None
    return best, Path(stored) if stored else data


def _refuse_network_options(settings: TrainSettings, weights: Path) -> None:
    """Refuse what the file says itself: evaluating another network than was asked for would mislead."""
    for name in ("arch", "filter_size", "criterion", "selection", "pool_only", "padding"):
        value = getattr(settings, name)
        if value is not None:
            raise InputError(f"{flag(name)} is {value}, but {weights} says itself what it is; leave the flag out.")


def _foreign_model(weights: Path, settings: TrainSettings) -> tuple[SelectingNetwork, Preprocessing]:
    from aps_deploy.models.detect import build_detected
    from aps_deploy.models.weights import load_weights, read_weights
    from aps_deploy.training.build import architecture_name
    from aps_deploy.training.data import preprocessing_of
    from aps_deploy.training.recipes import recipe_for

    model, _ = build_detected(
        read_weights(weights),
        name=None if settings.arch is None else architecture_name(settings),
        criterion=settings.criterion,
        selection=settings.selection,
        pool_only=settings.pool_only,
        padding=settings.padding,
    )
    load_weights(model, weights)
    return model.eval(), preprocessing_of(recipe_for(settings, model.spec.family))


def _evaluate(
    session: Session,
    settings: EvaluateSettings,
    preprocessing: Preprocessing,
    model: str,
    class_names: tuple[str, ...] | None,
) -> Evaluation:
    found = find_evaluation_images(
        settings.data,
        settings.split,
        preprocessing,
        class_names=class_names,
        num_classes=session.metadata.num_classes,
        limit=settings.images,
        seed=settings.seed,
    )
    limit = _unreadable_limit(settings, preprocessing.image_size)
    try:
        return _measured(session, settings, found, model)
    except UnreadableImage:
        if limit == 0:
            raise
    # Only now, because looking for all of them decodes every image once more. What was counted cannot be kept: the
    # batches of the protocol, which share a shift, are others without them.
    return _measured(session, settings, found.readable(limit), model)


def _measured(session: Session, settings: EvaluateSettings, found: EvaluationImages, model: str) -> Evaluation:
    side = found.preprocessing.image_size
    shifts = _shifts(settings, session.metadata, side)
    consistency = None
    with Progress(settings.progress) as progress:
        authors = authors_consistency(
            session,
            found.as_array(),
            found.labels,
            protocol=_protocol(settings, side),
            seed=settings.seed,
            batch_size=settings.batch_size,
            progress=progress.report,
        )
        if shifts is not None:
            sample: EvaluationImages = found.sample(settings.shift_images, settings.seed)
            consistency = measure_consistency(
                session, sample.as_array(), shifts, batch_size=settings.batch_size, progress=progress.report
            )
    return Evaluation(
        model=model,
        architecture=session.metadata.architecture,
        runtime=session.runtime,
        device=session.device,
        providers=session.providers,
        split=found.split,
        num_images=len(found),
        num_unreadable=found.num_unreadable,
        accuracy_percent=authors.accuracy_percent,
        authors=authors,
        shifts=shifts,
        consistency=consistency,
    )


def _unreadable_limit(settings: EvaluateSettings, side: int) -> int:
    """Return how many unreadable images are left out, by default as many as training on such images leaves out."""
    if settings.max_unreadable_images is not None:
        return settings.max_unreadable_images
    return RECIPES["cifar10" if side <= _CIFAR_LARGEST_SIDE else "imagenet"].max_unreadable_images


def _shifts(settings: EvaluateSettings, metadata: ModelMetadata, side: int) -> ShiftSet | None:
    if settings.shifts == "none":
        return None
    return shift_set(
        settings.shifts,
        height=side,
        width=side,
        size_divisor=metadata.total_stride,
        seed=settings.seed,
        step=metadata.shift_step,
    )


def _protocol(settings: EvaluateSettings, side: int) -> AuthorsProtocol:
    protocol = PROTOCOLS[settings.protocol or ("cifar" if side <= _CIFAR_LARGEST_SIDE else "imagenet")]
    return protocol if settings.erased_side is None else dataclasses.replace(protocol, erased_side=settings.erased_side)
