"""``aps-deploy import``: other people's weights into a checkpoint of ours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.models.checkpoints import is_checkpoint, save_checkpoint
from aps_deploy.models.detect import build_detected
from aps_deploy.models.layouts import Layout, canonical_weights, state_dict_of
from aps_deploy.models.weights import load_canonical, read_tensors
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
    _check_files(Path(source), Path(output))
    weights = canonical_weights(state_dict_of(read_tensors(source), str(source)))
    model, detected = build_detected(
        weights, name=arch, criterion=criterion, selection=selection, pool_only=pool_only, padding=padding
    )
    report = load_canonical(model, weights)
    preprocessing = CIFAR10 if model.spec.family == "cifar" else IMAGENET
    path = save_checkpoint(
        output, model, preprocessing=preprocessing, class_names=class_names, training={"imported_from": report.layout}
    )
    open_question = arch is None or (padding is None and weights.circular is None)
    note = detected.ambiguous if open_question else None
    return ImportResult(path, model.arguments, report.layout, report.num_tensors, note)


def _check_files(source: Path, output: Path) -> None:
    if source.suffix == ".safetensors" and source.is_file() and is_checkpoint(source):
        raise InputError(f"{source} is a checkpoint of aps-deploy already; use it as it is.")
    if source.name == "last.pt" and source.with_name("last.safetensors").is_file():
        raise InputError(
            f"{source} is the training state of a run; its network is {source.with_name('last.safetensors')}."
        )
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"the output {output} is the source itself; give another name.")
