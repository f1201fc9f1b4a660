"""The command line: one thin Typer command per verb.

What a command does lives in the module it imports when it runs, so that ``aps-deploy --help`` waits for none of them.
`aps_deploy.console` turns errors into exit codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from aps_deploy import options
from aps_deploy.bench.command import bench
from aps_deploy.console import new_app, print_json, print_rows, print_table, progress_line
from aps_deploy.conversion.command import convert
from aps_deploy.errors import InputError
from aps_deploy.export.command import export
from aps_deploy.files import read_lines
from aps_deploy.serving.command import serve
from aps_deploy.serving.package.command import package
from aps_deploy.training import options as train_options
from aps_deploy.training.authors_flags import AuthorsCommand
from aps_deploy.training.command import train
from aps_deploy.training.reproduction.command import reproduce
from aps_deploy.verification.command import verify

app = new_app()
app.command(cls=AuthorsCommand)(train)


@app.command()
def evaluate(
    model: options.Model,
    data: options.Data,
    split: Annotated[
        Literal["auto", "test", "val", "train"], typer.Option("--split", help="Part of --data; auto: test, else val.")
    ] = "auto",
    images: options.Images = None,
    max_unreadable_images: Annotated[
        int | None,
        typer.Option(
            "--max-unreadable-images",
            metavar="N",
            help="Leave out so many images that cannot be read [default: as in training, by the size of the input].",
        ),
    ] = None,
    protocol: Annotated[
        Literal["cifar", "cifar-crop", "cifar-erase", "cifar-flip", "imagenet"] | None,
        typer.Option(
            "--protocol", help="The authors' protocol [default: cifar or imagenet, by the size of the input]."
        ),
    ] = None,
    erased_side: Annotated[
        int | None,
        typer.Option("--erased-side", metavar="N", help="Side of the square that cifar-erase blanks [default: 3]."),
    ] = None,
    shifts: Annotated[
        str, typer.Option("--shifts", metavar="group|all|N|none", help="Shifts tried on the sample.")
    ] = "group",
    shift_images: Annotated[
        int, typer.Option("--shift-images", min=1, metavar="N", help="Images of the sample.")
    ] = 256,
    preprocessing: options.Preprocessing = None,
    runtime: options.Runtime = None,
    device: options.Device = None,
    batch_size: options.BatchSize = 64,
    seed: options.Seed = 0,
    progress: train_options.Progress = None,
    json: options.Json = False,
) -> None:
    """Measure accuracy and shift consistency.

    Of a checkpoint, an ONNX file or an engine: by the APS authors' protocol on all images, and under every shift of a
    set on a sample of them.
    """
    # The options are the fields of the settings, but for the form of the output.
    chosen = {name: value for name, value in locals().items() if name != "json"}
    from aps_deploy.training.evaluate import EvaluateSettings
    from aps_deploy.training.evaluate import evaluate as evaluate_model

    result = evaluate_model(EvaluateSettings(**chosen))
    if json:
        print_json(result.to_dict())
    else:
        print_rows(result.rows())


app.command()(reproduce)


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="WEIGHTS", help="Weights of the APS authors, torchvision or antialiased-cnns.")
    ],
    output: options.Output,
    arch: Annotated[
        str | None, typer.Option("--arch", "-a", metavar="NAME", help="Architecture [default: read off the keys].")
    ] = None,
    criterion: train_options.Criterion = None,
    selection: train_options.Selection = None,
    pool_only: train_options.PoolOnly = None,
    padding: train_options.Padding = None,
    class_names: options.ClassNames = None,
) -> None:
    """Turn other people's weights into a checkpoint.

    Whose they are (the APS authors', torchvision's, antialiased-cnns'), and of which architecture, is read off their
    keys; what the keys leave open, options say.
    """
    from aps_deploy.models import import_weights

    names = None if class_names is None else read_lines(class_names, "one class name per line")
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


app.command()(convert)


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


app.command()(export)


@app.command()
def predict(
    model: options.Model,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.", show_default=False)
    ],
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Classes to show per image.")] = 5,
    preprocessing: options.Preprocessing = None,
    runtime: options.Runtime = None,
    device: options.Device = None,
    batch_size: options.BatchSize = 32,
    json: options.Json = False,
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
    typer.echo(report.to_text(as_json=json))


app.command()(verify)
app.command()(serve)
app.command()(package)
app.command()(bench)


@app.command()
def demo(
    out_dir: Annotated[Path, typer.Option("--out-dir", metavar="DIR", help="Folder for everything it makes.")] = Path(
        "aps-deploy-demo"
    ),
    images: Annotated[int, typer.Option("--images", min=1, metavar="N", help="Images to try under every shift.")] = 8,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs of the training step.")] = 2,
) -> None:
    """Show all of it on the images and models inside the package.

    Trains briefly, exports, verifies, and compares an ordinary network with a shift-invariant one under every shift, in
    every runtime of this machine; needs no network and no data set.
    """
    from aps_deploy.demo.live import serve_command
    from aps_deploy.demo.running import DemoSettings, run_demo
    from aps_deploy.demo.table import demo_table

    settings = DemoSettings(out_dir=out_dir, num_shifted=images, fine_tune_epochs=epochs)
    result = run_demo(settings, report=lambda sentence: typer.echo(f"- {sentence}"), progress=progress_line())
    print_table(demo_table(result.measurements))
    typer.echo(
        f"heat map of the shifts: {result.picture}\nnumbers: {result.results}\n{result.seconds:.0f} seconds in all\n"
        f"move a picture and watch both answer: {serve_command(result.repository)}\n"
        "then open http://127.0.0.1:8000/ in a browser"
    )
    raise typer.Exit(0 if result.all_verified else 1)


if __name__ == "__main__":
    app(prog_name="aps-deploy")
