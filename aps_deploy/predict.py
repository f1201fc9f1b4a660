"""Classes and probabilities of images, from any model file on any runtime: what `aps-deploy predict` prints."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.images import find_images_anywhere, load_images
from aps_deploy.preprocessing import PRESETS, Preprocessing, preset
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.opening import open_session
from aps_deploy.runtimes.session import INDICES, LOGITS, Outputs, Session


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """One class of one image.

    Attributes:
        index: position among the logits.
        name: the class's name, or its position as text where the model carries no names.
        probability: softmax over all logits, 0 to 1.
        logit: the model's output.
    """

    index: int
    name: str
    probability: float
    logit: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model says about one image.

    Attributes:
        image: the file, as the user gave it.
        scores: the best classes, best first; among equal logits the lower index first.
        polyphase_indices: the component each selecting layer chose; None for a model that selects nothing.
    """

    image: str
    scores: tuple[ClassScore, ...]
    polyphase_indices: tuple[int, ...] | None

    @property
    def best(self) -> ClassScore:
        """The most probable class."""
        return self.scores[0]


@dataclasses.dataclass(frozen=True)
class PredictionReport:
    """The predictions for some images and what made them.

    Attributes:
        model: the model file, as the user gave it.
        architecture: registry name; None for a file of another tool.
        runtime: what ran it.
        device: where it ran.
        providers: what computed, as the runtime reports it.
        predictions: one per image, in the given order.
    """

    model: str
    architecture: str | None
    runtime: str
    device: str
    providers: tuple[str, ...]
    predictions: tuple[Prediction, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        document: dict[str, Any] = _with_lists(dataclasses.asdict(self))
        return document

    def rows(self) -> list[tuple[str, str, str]]:
        """Return table rows of image, class and probability in percent; the image's name only in its first row."""
        return [
            (prediction.image if rank == 0 else "", score.name, f"{100 * score.probability:.2f} %")
            for prediction in self.predictions
            for rank, score in enumerate(prediction.scores)
        ]

    def to_text(self, *, as_json: bool) -> str:
        """Return what the command prints: the document as JSON, or each image's name above its classes."""
        if as_json:
            return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        lines: list[str] = []
        for image, name, probability in self.rows():
            lines += [*([image] if image else []), f"  {probability:>9}  {name}"]
        return "\n".join(lines)


def predict(
    model: str | os.PathLike[str],
    images: Iterable[str | os.PathLike[str]],
    *,
    top_k: int = 5,
    runtime: str | None = None,
    device: str | None = None,
    preprocessing: Preprocessing | str | None = None,
    batch_size: int = 32,
    num_threads: int | None = None,
) -> PredictionReport:
    """Return classes and probabilities of images.

    Args:
        model: a checkpoint, a packaged model's name or an ONNX file.
        images: image files, or folders whose images are all taken.
        top_k: how many classes per image; more than the model has means all.
        runtime: see `open_session`.
        device: see `open_session`.
        preprocessing: replaces the one in the file; needed, by name or in full, for a file that carries none.
        batch_size: images per run.
        num_threads: see `open_session`.

    Raises:
        InputError: the model or an image cannot be read, or the file carries no preprocessing and none is given.
        ApsError: the model returned no (N, classes) logits, or logits that are not finite.
    """
    if top_k < 1:
        raise InputError(f"the number of classes to show is {top_k}; it must be at least 1.")
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}; it must be at least 1.")
    paths = _image_files(images)
    with open_session(model, runtime=runtime, device=device, num_threads=num_threads) as session:
        steps = choose_preprocessing(preprocessing, session.metadata, session.source)
        predictions: list[Prediction] = []
        for start in range(0, len(paths), batch_size):
            part = paths[start : start + batch_size]
            predictions += predict_arrays(session, load_images(part, steps), part, top_k=top_k)
        return PredictionReport(
            model=os.fspath(model),
            architecture=session.metadata.architecture,
            runtime=session.runtime,
            device=session.device,
            providers=session.providers,
            predictions=tuple(predictions),
        )


def predict_arrays(
    session: Session, images: npt.NDArray[np.float32], names: Sequence[str], *, top_k: int = 5
) -> list[Prediction]:
    """Return the predictions for preprocessed images in one run of an open session.

    Args:
        session: an open session.
        images: (N, 3, H, W) float32.
        names: N names for the results.
        top_k: how many classes per image.

    Raises:
        InputError: the session does not take the images.
        ApsError: the model returned no (N, classes) logits, or logits that are not finite.
    """
    return predictions_from_outputs(session.run(images), names, session.metadata, session.source, top_k=top_k)


def predictions_from_outputs(
    outputs: Outputs, names: Sequence[str], metadata: ModelMetadata, source: str, *, top_k: int = 5
) -> list[Prediction]:
    """Return the predictions in what a model returned.

    Args:
        outputs: ``logits`` (N, classes) float32, and ``polyphase_indices`` (N, L) where the model selects.
        names: N names for the results.
        metadata: what the model's file says about itself.
        source: the file's name, for messages.
        top_k: how many classes per image.

    Raises:
        ApsError: there are no (N, classes) logits, or they are not finite.
    """
    logits = _checked_logits(outputs, names, source)
    probabilities = softmax(logits)
    class_names = _class_names(metadata, logits.shape[1])
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    indices = outputs.get(INDICES)
    return [
        Prediction(
            image=name,
            scores=tuple(
                ClassScore(int(i), class_names[i], float(probabilities[row, i]), float(logits[row, i]))
                for i in order[row]
            ),
            polyphase_indices=None if indices is None else tuple(int(i) for i in indices[row]),
        )
        for row, name in enumerate(names)
    ]


def choose_preprocessing(given: Preprocessing | str | None, metadata: ModelMetadata, source: str) -> Preprocessing:
    """Return the preprocessing to use: the given one, else the file's own.

    Raises:
        InputError: there is neither, or the given name is unknown.
    """
    if isinstance(given, str):
        return preset(given)
    chosen = given or metadata.preprocessing
    if chosen is None:
        raise InputError(
            f"{source} carries no preprocessing, so its images cannot be prepared; "
            f"name one with --preprocessing ({', '.join(PRESETS)})."
        )
    return chosen


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return the (N, classes) float64 probabilities of (N, classes) logits."""
    # float64, and the largest logit taken off first: the sum neither overflows nor depends on the logits' scale.
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def _image_files(images: Iterable[str | os.PathLike[str]]) -> list[str]:
    paths: list[str] = []
    for image in images:
        if Path(image).is_dir():
            paths += [os.fspath(path) for path in find_images_anywhere(image)]
        else:
            paths.append(os.fspath(image))
    if not paths:
        raise InputError("there is no image to predict; give image files or folders.")
    return paths


def _checked_logits(outputs: Outputs, names: Sequence[str], source: str) -> npt.NDArray[np.float32]:
    logits = outputs[LOGITS]
    if logits.ndim != 2 or len(logits) != len(names) or logits.shape[1] < 1:
        raise ApsError(
            f"{source} returned an output of shape {logits.shape} for {len(names)} images; accepted are classifiers, "
            "which return (N, classes)."
        )
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise ApsError(f"{source} returned logits that are not finite for {names[bad[0]]}; the model is damaged.")
    return logits


def _class_names(metadata: ModelMetadata, num_classes: int) -> Sequence[str]:
    names = metadata.class_names
    # A file whose head was replaced by another tool keeps the old names: wrong ones are worse than none.
    if names is None or len(names) != num_classes:
        return [str(index) for index in range(num_classes)]
    return names


def _with_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_lists(item) for item in value]
    return value
