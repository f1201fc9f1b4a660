"""``aps-deploy import``: other people's weights into a checkpoint of ours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aps_deploy.models.checkpoints import save_checkpoint
from aps_deploy.models.detect import build_detected
from aps_deploy.models.layouts import Layout
from aps_deploy.models.weights import load_weights, read_weights
from aps_deploy.preprocessing import CIFAR10, IMAGENET


@dataclass(frozen=True)
class ImportResult:
    """What was imported.

    Attributes:
        path: the checkpoint written.
        arguments: the network, as :func:`aps_deploy.create_model` takes it.
        layout: whose keys the weights had.
        num_tensors: tensors loaded.
        note: what the keys left open, or None.
    """

    path: Path
    arguments: dict[str, Any]
    layout: Layout
    num_tensors: int
    note: str | None


def import_weights(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    arch: str | None = None,
    criterion: str | None = None,
    selection: str | None = None,
    pool_only: bool | None = None,
    padding: str | None = None,
    class_names: list[str] | None = None,
) -> ImportResult:
    """Write the weights in ``source`` as a checkpoint; what is not given is read off the weights' keys.

    Preprocessing is the usual one of the family (CIFAR-10's or ImageNet's mean and standard deviation).

    Raises:
        InputError: the source cannot be read, is of no known layout, or does not fit the options given.
        ApsError: the disk is full.
    """
    weights = read_weights(source)
    model, detected = build_detected(
        weights, name=arch, criterion=criterion, selection=selection, pool_only=pool_only, padding=padding
    )
    report = load_weights(model, source)
    preprocessing = CIFAR10 if model.spec.family == "cifar" else IMAGENET
    path = save_checkpoint(
        output, model, preprocessing=preprocessing, class_names=class_names, training={"imported_from": report.layout}
    )
    note = detected.ambiguous if arch is None else None
    return ImportResult(path, model.arguments, report.layout, report.num_tensors, note)
