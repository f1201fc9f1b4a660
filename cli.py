"""The command line: one thin Typer command per verb.

Only this file turns an error into an exit code and prints (0 done, 1 a gate or an operation failed, 2 wrong usage or
unreadable input). What a command does lives in the module it imports when it runs, so that ``aps-deploy --help`` waits
for none of them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from aps_deploy import __version__
from aps_deploy.errors import ApsError, InputError
from aps_deploy.training import options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from aps_deploy.training.loop import TrainResult

_LOGGER = logging.getLogger(__name__)

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Checkpoint, name of a packaged model, or ONNX file.", show_default=False)
]
CheckpointArgument = Annotated[
    str, typer.Argument(metavar="CKPT", help="Checkpoint, or name of a packaged model.", show_default=False)
]
DataOption = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="Folder of images, one subfolder per class.", show_default=False)
]
RuntimeOption = Annotated[
    str | None,
    typer.Option("--runtime", metavar="NAME", help="torch, onnxruntime or onnx-reference [default: the file's own]."),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="cpu or cuda [default: cuda where it works].")
]
BatchOption = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images per run.")]
ImagesOption = Annotated[
    int | None, typer.Option("--images", min=1, metavar="N", help="Images to use, spread over the classes.")
]
ShiftsOption = Annotated[
    str,
    typer.Option("--shifts", metavar="group|all|N", help="The stride-product group, every shift, or N drawn ones."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything drawn at random.")]
OutputOption = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class _Commands(TyperGroup):
    """The group of commands, at whose edge errors become one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ApsError as error:
            _LOGGER.debug("where the error came from:", exc_info=True)
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("Interrupted.", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="aps-deploy",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help takes a third of the time of coloured help, and is easier to search.
    rich_markup_mode=None,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # The authors' scripts write --filter_size: underscores and dashes mean the same.
        "token_normalize_func": lambda name: name.replace("_", "-"),
        "max_content_width": 110,
    },
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aps-deploy {__version__}")
        raise typer.Exit


@app.callback()
def common(
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Say more; twice for debugging.", show_default=False)
    ] = 0,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Train shift-invariant image classifiers, export them, and prove that the exported file kept the property."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("aps_deploy").setLevel([logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)])


@app.command()
def train(
    arch: options.Arch = None,
    data: options.Data = None,
    out_dir: options.OutDir = None,
    recipe: options.Recipe = None,
    resume: options.Resume = False,
    evaluate: options.Evaluate = False,
    weights: options.Weights = None,
    seed: options.Seed = None,
    filter_size: options.FilterSize = None,
    criterion: options.Criterion = None,
    selection: options.Selection = None,
    pool_only: options.PoolOnly = None,
    padding: options.Padding = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    learning_rate: options.LearningRate = None,
    momentum: options.Momentum = None,
    nesterov: options.Nesterov = None,
    weight_decay: options.WeightDecay = None,
    label_smoothing: options.LabelSmoothing = None,
    schedule: options.Schedule = None,
    step_epochs: options.StepEpochs = None,
    step_factor: options.StepFactor = None,
    warmup_share: options.WarmupShare = None,
    flip: options.Flip = None,
    crop_padding: options.CropPadding = None,
    crop_padding_mode: options.CropPaddingMode = None,
    circular_data_aug: options.CircularDataAug = None,
    circular_shift: options.CircularShift = None,
    holdout: options.Holdout = None,
    max_train_images: options.MaxTrainImages = None,
    image_size: options.ImageSize = None,
    resize: options.Resize = None,
    download: options.Download = None,
    workers: options.Workers = None,
    precision: options.Precision = None,
    channels_last: options.ChannelsLast = None,
    compile: options.Compile = None,
    device: DeviceOption = None,
    validate_consistency: options.ValidateConsistency = None,
    progress: options.Progress = None,
) -> None:
    """Train a network, or continue a run that was stopped.

    What is not given is the recipe's value: cifar10 and imagenet are the APS authors' settings, fast is for people in
    a hurry.
    """
    # The options are the fields of the settings; tests/cli checks that none is missing.
    chosen = dict(locals())
    from aps_deploy.training.settings import TrainSettings

    settings = TrainSettings(**chosen)
    if settings.evaluate:
        raise NotImplementedError
    # A run without a progress bar would be silent for hours: its epochs are worth a line each.
    logging.getLogger("aps_deploy.training").setLevel(logging.INFO)
    from aps_deploy.training.loop import run_training

    result = run_training(settings)
    typer.echo(_train_summary(result))
    if result.interrupted_by is not None:
        raise typer.Exit(130 if result.interrupted_by == "SIGINT" else 143)


def _train_summary(result: TrainResult) -> str:
    lines = [f"{result.epochs} of {result.num_epochs} epochs done; everything is in {result.out_dir}"]
    if result.test is not None:
        consistency = "" if result.test.consistency is None else f", shift consistency {result.test.consistency:.2%}"
        lines.append(f"test accuracy {result.test.accuracy:.2%}{consistency} on {result.test.num_images} images")
    if result.interrupted_by is not None:
        resume = f"aps-deploy train --resume --out-dir {result.out_dir}"
        lines.append(f"stopped by {result.interrupted_by}; continue with: {resume}")
    elif result.checkpoint.is_file():
        lines.append(f"next: aps-deploy export {result.checkpoint} -o model.onnx")
    return "\n".join(lines)


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="WEIGHTS", help="Weights of the APS authors, torchvision or antialiased-cnns.")
    ],
    output: OutputOption,
    arch: Annotated[
        str | None, typer.Option("--arch", "-a", metavar="NAME", help="Architecture [default: read off the keys].")
    ] = None,
    criterion: options.Criterion = None,
    selection: options.Selection = None,
    pool_only: options.PoolOnly = None,
    padding: options.Padding = None,
    class_names: Annotated[
        Path | None, typer.Option("--class-names", metavar="FILE", help="Text file with one class name per line.")
    ] = None,
) -> None:
    """Turn other people's weights into a checkpoint.

    Whose they are (the APS authors', torchvision's, antialiased-cnns'), and of which architecture, is read off their
    keys; what the keys leave open, options say.
    """
    from aps_deploy.models import import_weights

    names = None if class_names is None else _lines(class_names)
    result = import_weights(
        source,
        output,
        arch=arch,
        criterion=criterion,
        selection=selection,
        pool_only=pool_only,
        padding=padding,
        class_names=names,
    )
    made = result.arguments
    typer.echo(f"{result.path}: {made['name']}, {made['padding']} padding, {made['num_classes']} classes")
    typer.echo(f"{result.num_tensors} tensors, recognised by their keys as {result.layout}")
    if result.note is not None:
        typer.echo(f"note: {result.note}")


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a text file with one class name per line.") from None


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(metavar="[PATTERN]", help="Shell pattern such as '*aps3'.")] = "*",
) -> None:
    """List the architectures and the packaged models.

    With their parameters, classes and the image sizes they accept.
    """
    from aps_deploy.models import list_models, packaged_models, summarise

    names = list_models(pattern)
    packaged = [name for name in packaged_models() if Path(name).match(pattern)]
    if not names and not packaged:
        raise InputError(f"no architecture matches {pattern!r}; `aps-deploy models` lists all of them.")
    typer.echo(f"{'name':<22} {'parameters':>11}  {'classes':>7}  image sides")
    for name in names:
        line = summarise(name)
        typer.echo(f"{line.name:<22} {line.num_parameters:>11,}  {line.num_classes:>7}  {line.sizes}")
    for name in packaged:
        typer.echo(f"{name:<22} trained, inside the package")


@app.command()
def export(
    checkpoint: CheckpointArgument,
    output: OutputOption,
    engine: Annotated[
        Literal["onnx", "trt", "trt-rtx"], typer.Option("--engine", help="What to build; this version builds onnx.")
    ] = "onnx",
    polyphase: Annotated[
        Literal["where", "gather", "custom-op"], typer.Option("--polyphase", help="How the file writes the selection.")
    ] = "where",
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"],
        typer.Option("--precision", help="Arithmetic; this version writes fp32."),
    ] = "fp32",
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=1, metavar="N", help="Side in pixels [default: the checkpoint's].")
    ] = None,
    opset: Annotated[int, typer.Option("--opset", min=20, help="ONNX opset.")] = 20,
) -> None:
    """Export a checkpoint to an ONNX file.

    The file needs no plugin; a JSON document beside it holds its hash and what it was made from.
    """
    if engine != "onnx":
        raise InputError(f"--engine {engine} is not available in this version; only --engine onnx is.")
    from aps_deploy.export import export_checkpoint

    artifact = export_checkpoint(
        checkpoint, output, polyphase=polyphase, image_size=image_size, precision=precision, opset=opset
    )
    typer.echo(f"{artifact.path} (sha256 {artifact.sha256[:16]}), described by {artifact.sidecar_path}")


@app.command()
def predict(
    model: ModelArgument,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.", show_default=False)
    ],
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Classes to show per image.")] = 5,
    preprocessing: Annotated[
        str | None,
        typer.Option("--preprocessing", metavar="NAME", help="cifar10 or imagenet [default: the file's]."),
    ] = None,
    runtime: RuntimeOption = None,
    device: DeviceOption = None,
    batch_size: BatchOption = 32,
    json: JsonOption = False,
) -> None:
    """Print the classes of images.

    With their probabilities, from any model file; images are prepared as the file says.
    """
    from aps_deploy.predict import predict as predict_images

    report = predict_images(
        model,
        images,
        top_k=top_k,
        runtime=runtime,
        device=device,
        preprocessing=preprocessing,
        batch_size=batch_size,
    )
    if json:
        _print_json(report.to_dict())
        return
    for image, name, probability in report.rows():
        if image:
            typer.echo(image)
        typer.echo(f"  {probability:>9}  {name}")


@app.command()
def verify(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="ONNX file (or checkpoint) to prove.", show_default=False)
    ],
    reference: Annotated[
        str, typer.Option("--reference", metavar="CKPT", help="Checkpoint it was made from.", show_default=False)
    ],
    data: DataOption,
    images: ImagesOption = None,
    shifts: ShiftsOption = "group",
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", metavar="NAME=NUMBER", help="Replace a limit, or =off to only report; repeatable."),
    ] = None,
    runtime: RuntimeOption = None,
    device: DeviceOption = None,
    batch_size: BatchOption = 64,
    seed: SeedOption = 0,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", "-o", metavar="FILE", help="Where to write it [default: beside FILE]."),
    ] = None,
) -> None:
    """Prove that an exported file kept the property.

    Compares the shipped bytes with the float32 checkpoint: selections, logits, every shift, every place in a batch.
    Writes a JSON certificate; exits with 0 when every gate passed, 1 when one failed, 2 when something was unreadable.
    """
    from aps_deploy.verification import certificate_path, certificate_table, parse_gates, verify_path

    result = verify_path(
        file,
        reference,
        data,
        num_images=images,
        shifts=shifts,
        gates=parse_gates(gate or []),
        runtime=runtime,
        device=device,
        output=certificate or certificate_path(file),
        batch_size=batch_size,
        seed=seed,
        progress=_progress(),
    )
    _print_table(certificate_table(result))
    typer.echo(f"certificate: {certificate or certificate_path(file)}")
    raise typer.Exit(result.exit_code)


def _progress() -> Callable[[str, int, int], None] | None:
    """Return what shows a long measurement's progress in one line of stderr; None where nobody watches."""
    if not sys.stderr.isatty():
        return None

    def show(what: str, done: int, total: int) -> None:
        end = "\r" if done < total else "\r\033[K"
        print(f"{what}: {done} of {total}".ljust(60), end=end, file=sys.stderr, flush=True)

    return show


def _print_table(table: RenderableType) -> None:
    from rich.console import Console

    # Where nobody watches there is no width to fit into: lines that a program reads are not broken.
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)


def _print_json(document: dict[str, Any]) -> None:
    from json import dumps

    typer.echo(dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


if __name__ == "__main__":
    app(prog_name="aps-deploy")
