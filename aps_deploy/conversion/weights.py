"""``aps-deploy convert``: another library's architecture and somebody's weights become a checkpoint of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from aps_deploy.conversion.converted import ConvertedSpec
from aps_deploy.conversion.converting import convert
from aps_deploy.conversion.named import library_of
from aps_deploy.conversion.report import ConversionReport
from aps_deploy.errors import InputError
from aps_deploy.models.checkpoints import is_checkpoint, save_checkpoint
from aps_deploy.models.layouts import state_dict_of
from aps_deploy.models.weights import read_tensors
from aps_deploy.preprocessing import Preprocessing


@dataclass(frozen=True)
class ConvertedWeights:
    """What was converted.

    Attributes:
        path: the checkpoint written.
        architecture: its name, as `aps_deploy.create_model` takes it.
        num_classes: of its classifier.
        has_new_classifier: whether that is untrained.
        report: what was replaced.
    """

    path: Path
    architecture: str
    num_classes: int
    has_new_classifier: bool
    report: ConversionReport


def convert_weights(
    arch: str,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    filter_size: int = 1,
    criterion: str = "l2",
    selection: str = "exact",
    num_classes: int | None = None,
    class_names: list[str] | None = None,
) -> ConvertedWeights:
    """Write a library's ``arch`` with the weights in ``source``, converted, as a checkpoint.

    Args:
        arch: torchvision's name, such as ``resnet50``, or timm's behind ``timm:``, such as ``timm:resnet50d``. A tag of
            timm's weights, as in ``timm:resnet50.a1_in1k``, says how they take images; without one it is timm's first.
        source: a state dict for it, as ``.pth`` or safetensors, alone or inside a training file.
        output: the checkpoint to write, ending in ``.safetensors``.
        filter_size: of the blur before each selection, 1 (none) to 7.
        criterion: the norm by which components are compared.
        selection: ``exact`` or ``float``.
        num_classes: None takes the weights' own; another number starts a new classifier, which must be trained.
        class_names: one per class.

    Raises:
        InputError: an unknown architecture or option, weights that cannot be read or do not fit, or timm is asked for
            and not installed.
        ApsError: the disk is full.
    """
    _check_files(Path(source), Path(output))
    if num_classes is not None and num_classes < 1:
        raise InputError(f"a classifier needs at least one class, but the number of classes is {num_classes}.")
    library, tagged = library_of(arch)
    name = tagged.partition(".")[0]
    with torch.device("meta"):
        last = _classifier_path(library.create(name, num_classes=2))
    preprocessing = library.preprocessing(tagged)
    weights = dict(state_dict_of(read_tensors(source), str(source)))
    found = weights.get(f"{last}.weight")
    if found is None:
        raise InputError(f"the weights in {source} are not of {name}: {last}.weight is missing.")
    wanted = int(found.shape[0]) if num_classes is None else num_classes
    original = library.create(name, num_classes=wanted)
    is_new = wanted != found.shape[0]
    if is_new:
        fresh = original.state_dict()
        weights |= {key: fresh[key] for key in fresh if key.rpartition(".")[0] == last}
    _load(original, weights, name, str(source))
    model = convert(
        original.eval(),
        filter_size=filter_size,
        criterion=criterion,
        selection=selection,
        head=library.head(name),
        name=library.converted_name(name, filter_size),
    )
    path = save_checkpoint(
        output,
        model,
        preprocessing=_fitting(preprocessing, model.spec),
        class_names=class_names,
        training={"converted_from": f"{library.title} {tagged}"},
    )
    new_classifier = is_new or model.report.new_head is not None
    return ConvertedWeights(path, model.spec.name, wanted, new_classifier, model.report)


def _fitting(preprocessing: Preprocessing, spec: ConvertedSpec) -> Preprocessing:
    """Return the preprocessing for the next size that the network takes: some of timm's were trained at 176."""
    divisor = spec.size_divisor
    return preprocessing.for_size(max(spec.smallest_side, -(-preprocessing.image_size // divisor) * divisor))


def _check_files(source: Path, output: Path) -> None:
    if source.suffix == ".safetensors" and source.is_file() and is_checkpoint(source):
        raise InputError(f"{source} is a checkpoint of aps-deploy already; use it as it is.")
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"the output {output} is the source itself; give another name.")


def _classifier_path(model: nn.Module) -> str:
    paths: list[str] = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    return paths[-1]


def _load(model: nn.Module, weights: Mapping[str, Tensor], arch: str, source: str) -> None:
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    seen = {key: tuple(value.shape) for key, value in weights.items()}
    # Files from before PyTorch 0.4.1 do not count batches.
    fresh = {key: value for key, value in model.state_dict().items() if key.endswith(".num_batches_tracked")}
    problems = [f"{key} is missing" for key in expected if key not in seen and key not in fresh]
    problems += [f"{key} is not a parameter of it" for key in seen if key not in expected]
    problems += [
        f"{key} is {seen[key]}, not {shape}" for key, shape in expected.items() if key in seen and seen[key] != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more differences" if len(problems) > 3 else ""
        raise InputError(f"the weights in {source} are not of {arch}: {'; '.join(problems[:3])}{more}.")
    model.load_state_dict(fresh | dict(weights))
