"""Arguments and options that several commands share; those of training are in `aps_deploy.training.options`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Model = Annotated[
    str, Argument(metavar="MODEL", help="Checkpoint, name of a packaged model, or ONNX file.", show_default=False)
]
Checkpoint = Annotated[
    str, Argument(metavar="CKPT", help="Checkpoint, or name of a packaged model.", show_default=False)
]
Data = Annotated[
    Path, Option("--data", metavar="DIR", help="Folder of images, one subfolder per class.", show_default=False)
]
Runtime = Annotated[
    str | None,
    Option("--runtime", metavar="NAME", help="torch, onnxruntime or onnx-reference [default: the file's own]."),
]
Device = Annotated[str | None, Option("--device", metavar="NAME", help="cpu or cuda [default: cuda where it works].")]
Preprocessing = Annotated[
    str | None, Option("--preprocessing", metavar="NAME", help="cifar10 or imagenet [default: the file's].")
]
BatchSize = Annotated[int, Option("--batch-size", "-b", min=1, help="Images per run.")]
Images = Annotated[int | None, Option("--images", min=1, metavar="N", help="Images to use, spread over the classes.")]
Shifts = Annotated[
    str,
    Option("--shifts", metavar="group|all|N", help="The stride-product group, every shift, or N drawn ones."),
]
Seed = Annotated[int, Option("--seed", min=0, max=2**32 - 1, help="Seed of everything drawn at random.")]
Output = Annotated[Path, Option("--output", "-o", metavar="FILE", help="File to write.", show_default=False)]
Json = Annotated[bool, Option("--json", help="Print JSON instead of a table.")]
