"""The command `aps-deploy convert`: a network of torchvision or timm becomes a shift-invariant checkpoint.

Imports no PyTorch, so that the help is there at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aps_deploy import options
from aps_deploy.files import read_lines
from aps_deploy.training import options as train_options


def convert(
    architecture: Annotated[
        str, typer.Argument(metavar="NAME", help="torchvision's name, such as resnet50, or timm's: timm:resnet50d.")
    ],
    weights: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="A state dict for it, .pth or .safetensors.")],
    output: options.Output,
    filter_size: Annotated[
        int, typer.Option("--filter-size", "-f", min=1, max=7, metavar="J", help="Blur before selections; 1 is none.")
    ] = 1,
    criterion: train_options.Criterion = None,
    selection: train_options.Selection = None,
    num_classes: Annotated[
        int | None,
        typer.Option("--num-classes", min=1, metavar="N", help="Start a new classifier [default: the weights' own]."),
    ] = None,
    class_names: options.ClassNames = None,
) -> None:
    """Make a network of torchvision or timm shift-invariant.

    Its weights are kept: strides become selections, padding circular, pooling exact. ResNet, ResNeXt, Wide ResNet,
    MobileNetV2 and V3, DenseNet, ConvNeXt; VGG gets a new classifier, which must be trained. Of timm its ResNets, with
    SE and ECA, ResNet-RS, -blur and -aa; timm:resnet50.a1_in1k prepares images as timm does for those weights.
    """
    from aps_deploy.conversion.weights import convert_weights

    result = convert_weights(
        architecture,
        weights,
        output,
        filter_size=filter_size,
        criterion=criterion or "l2",
        selection=selection or "exact",
        num_classes=num_classes,
        class_names=None if class_names is None else read_lines(class_names, "one class name per line"),
    )
    typer.echo(f"{result.path}: {result.architecture}, {result.num_classes} classes")
    typer.echo(str(result.report))
    if result.has_new_classifier:
        typer.echo(
            f"note: the classifier is new; train it with: aps-deploy train --arch {result.architecture} "
            f"--weights {result.path}"
        )
