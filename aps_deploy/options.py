"""Arguments and options that several commands share; those of training are in `aps_deploy.training.options`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from typer import Argument, Context, Option

from aps_deploy.errors import InputError

MAX_SIDE = 65_536
"""Side in pixels that no image has: JPEG and PNG decoders take no larger ones."""

Model = Annotated[
    str,
    Argument(metavar="MODEL", help="Checkpoint, name of a packaged model, ONNX file, or engine.", show_default=False),
]
Checkpoint = Annotated[
    str, Argument(metavar="CKPT", help="Checkpoint, or name of a packaged model.", show_default=False)
]
Data = Annotated[
    Path, Option("--data", metavar="DIR", help="Folder of images, one subfolder per class.", show_default=False)
]
Runtime = Annotated[
    str | None,
    Option(
        "--runtime",
        metavar="NAME",
        help="torch, torch-compiled, onnxruntime, onnxruntime-kernels, onnxruntime-tensorrt, onnx-reference, openvino, "
        "tensorrt or tensorrt-rtx [default: the file's own].",
    ),
]
RuntimeOrAll = Annotated[
    str | None,
    Option(
        "--runtime",
        metavar="NAME|all",
        help="torch, torch-compiled, onnxruntime, onnxruntime-kernels, onnxruntime-tensorrt, onnx-reference, openvino, "
        "tensorrt, tensorrt-rtx, or all [default: the file's own].",
    ),
]
Device = Annotated[str | None, Option("--device", metavar="NAME", help="cpu or cuda [default: cuda where it works].")]
Preprocessing = Annotated[
    str | None, Option("--preprocessing", metavar="NAME", help="cifar10 or imagenet [default: the file's].")
]
ImageSize = Annotated[
    int | None,
    Option(
        "--image-size",
        min=1,
        max=MAX_SIDE,
        metavar="N",
        help="Side of the images in pixels [default: what the file takes].",
    ),
]
Resize = Annotated[
    int | None,
    Option(
        "--resize",
        min=0,
        max=MAX_SIDE,
        metavar="N",
        help="Shorter side before the center crop, in pixels; 0 resizes nothing.",
    ),
]
Mean = Annotated[
    str | None, Option("--mean", metavar="R,G,B", help="Mean of the channels scaled to 0..1 [default: the file's].")
]
Std = Annotated[
    str | None, Option("--std", metavar="R,G,B", help="Standard deviation of the channels [default: the file's].")
]
BatchSize = Annotated[int, Option("--batch-size", "-b", min=1, help="Images per run.")]
Images = Annotated[int | None, Option("--images", min=1, metavar="N", help="Images to use, spread over the classes.")]
Shifts = Annotated[
    str,
    Option("--shifts", metavar="group|all|N", help="The stride-product group, every shift, or N drawn ones."),
]
Budget = Annotated[
    int | None,
    Option(
        "--budget",
        min=1,
        metavar="N",
        help="Pairs of an image and a shift tried at most; of more shifts a seeded part [default: 262144 for all].",
    ),
]
Seed = Annotated[int, Option("--seed", min=0, max=2**32 - 1, help="Seed of everything drawn at random.")]
ClassNames = Annotated[
    Path | None, Option("--class-names", metavar="FILE", help="Text file with one class name per line.")
]
Output = Annotated[Path, Option("--output", "-o", metavar="FILE", help="File to write.", show_default=False)]
OptionalData = Annotated[
    Path | None, Option("--data", metavar="DIR", help="Folder of images, one subfolder per class.")
]
Gate = Annotated[
    list[str] | None,
    Option("--gate", metavar="NAME=NUMBER", help="Replace a limit, or =off to only report; repeatable."),
]
Gates = Annotated[Path | None, Option("--gates", metavar="TOML", help="File of such limits; --gate goes before it.")]
Report = Annotated[Path | None, Option("--report", metavar="HTML", help="Also write a report for people.")]
Junit = Annotated[Path | None, Option("--junit", metavar="XML", help="Also write JUnit XML, one case per gate.")]
WorstCase = Annotated[
    Path | None,
    Option(
        "--worst-case",
        metavar="NPZ",
        help="Where to write the image and shift that changed most [default: beside the certificate, if one fails].",
    ),
]
Saved = Annotated[
    Path | None, Option("--from", metavar="JSON", help="Judge this certificate instead of measuring a file.")
]
Probe = Annotated[
    bool,
    Option("--probe", help="Only find the first operator of FILE, any ONNX file, that does not move with the image."),
]
Json = Annotated[bool, Option("--json", help="Print JSON instead of a table.")]

WITH_SAVED = ("saved", "gate", "gates", "certificate", "report", "junit")
"""Parameters of `verify` that fit `--from`."""

WITH_REFERENCE_ONLY = (
    *("reference", "save_reference", "data", "images", "preprocessing", "image_size", "resize", "mean", "std"),
    *("batch_size", "seed"),
)
"""Parameters of `verify` that fit `--save-reference` without a file."""

WITH_PROBE = ("file", "data", "images", "runtime", "seed", "certificate", "probe")
"""Parameters of `verify` that fit `--probe`."""

ValueT = TypeVar("ValueT")


def given(value: ValueT | None, name: str) -> ValueT:
    """Return the value of an option that another form of the command does not need.

    Raises:
        InputError: it was not given.
    """
    if value is None:
        raise InputError(
            f"{name} is missing; give FILE and --data, with --reference where there is one, or --from a saved "
            "certificate."
        )
    return value


def one_reference(reference: str | None, loaded: str | None, saved: Path | None) -> str | None:
    """Return the one reference that the options of `verify` name; None where they name none.

    Raises:
        InputError: they name two, or ask to save the answers of none.
    """
    if reference is not None and loaded is not None:
        raise InputError("--reference and --load-reference both name a reference; give one of them.")
    if loaded is not None and not loaded.lower().endswith(".npz"):
        raise InputError(f"--load-reference is {loaded}; give a file that --save-reference wrote, ending in .npz.")
    if saved is not None and reference is None:
        raise InputError("--save-reference needs a reference to run; give --reference CKPT or an ONNX file.")
    return reference if loaded is None else loaded


def refuse_given(context: Context, why: str, refused: tuple[str, ...]) -> None:
    """Refuse options on the command line that would be ignored.

    Raises:
        InputError: one of the ``refused`` parameters was given.
    """
    others = tuple(parameter.name or "" for parameter in context.command.params if parameter.name not in refused)
    refuse_others(context, why, others)


def refuse_others(context: Context, why: str, accepted: tuple[str, ...]) -> None:
    """Refuse options on the command line that would be ignored.

    Raises:
        InputError: an option was given that is not among the ``accepted`` parameters.
    """
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name not in accepted and source is not None and source.name == "COMMANDLINE":
            shown = parameter.opts[0] if parameter.opts[0].startswith("-") else str(parameter.metavar)
            raise InputError(f"{why}, so {shown} does not fit it; leave it out.")
