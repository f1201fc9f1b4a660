"""The command `aps-deploy verify`: a file, or a saved certificate, is held to the gates.

Imports neither torch nor onnx, so that the help is there at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from aps_deploy import options
from aps_deploy.console import print_table, progress_line

if TYPE_CHECKING:
    from aps_deploy.verification import Certificate
    from aps_deploy.verification.preparing import Preparation


def verify(
    context: typer.Context,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="ONNX file (or engine, or checkpoint) to prove.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="CKPT|ONNX", help="Checkpoint it was made from, or another ONNX file."),
    ] = None,
    load_reference: Annotated[
        str | None,
        typer.Option("--load-reference", metavar="NPZ", help="Saved answers of the reference, in its place."),
    ] = None,
    save_reference: Annotated[
        Path | None,
        typer.Option("--save-reference", metavar="NPZ", help="Also save its answers; without FILE only that."),
    ] = None,
    data: options.OptionalData = None,
    images: options.Images = None,
    shifts: options.Shifts = "group",
    budget: options.Budget = None,
    gate: options.Gate = None,
    gates: options.Gates = None,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"] | None,
        typer.Option("--precision", help="What every layer must compute in [default: what the file declares]."),
    ] = None,
    preprocessing: options.Preprocessing = None,
    image_size: options.ImageSize = None,
    resize: options.Resize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    runtime: options.RuntimeOrAll = None,
    device: options.Device = None,
    batch_size: options.BatchSize = 64,
    seed: options.Seed = 0,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", "-o", metavar="FILE", help="Where to write it [default: beside FILE]."),
    ] = None,
    report: options.Report = None,
    junit: options.Junit = None,
    worst_case: options.WorstCase = None,
    saved: options.Saved = None,
    probe: options.Probe = False,
) -> None:
    """Prove that an exported file kept the property.

    Compares the shipped bytes with the float32 checkpoint: selections, logits, answers under shifts, places in a batch.
    Any ONNX classifier will do: without a reference it is tried under shifts and in batches.
    Writes a JSON certificate; exits with 0 when every gate passed, 1 when one failed, 2 when something was unreadable.
    With --from a saved certificate is judged by other limits, or shown, and nothing runs.
    With --probe every operator runs alone on moved inputs, which tells why a file is not consistent.
    """
    if probe:
        options.refuse_others(context, "--probe runs the operators of one file, one by one", options.WITH_PROBE)
        _probe(options.given(file, "FILE"), data, images, runtime, certificate, seed)
    limits = _limits(gate, gates)
    if saved is not None:
        options.refuse_others(context, "--from judges a saved certificate and measures nothing", options.WITH_SAVED)
        _judge_saved(saved, limits, certificate, report, junit)
    data = options.given(data, "--data")
    reference = options.one_reference(reference, load_reference, save_reference)
    settings: dict[str, Any] = {
        "num_images": images,
        "batch_size": batch_size,
        "seed": seed,
        "preparation": _preparation(preprocessing, image_size, resize, mean, std),
    }
    if file is None and save_reference is not None and reference is not None:
        options.refuse_others(context, "without FILE only the reference is run", options.WITH_REFERENCE_ONLY)
        _save_answers(reference, data, save_reference, settings)
    file = options.given(file, "FILE")
    settings |= {
        "shifts": shifts,
        "budget": budget,
        "gates": limits,
        "precision": precision,
        "device": device,
        "report": report,
        "junit": junit,
        "worst_case": worst_case,
        "save_to": save_reference,
    }
    if runtime == "all":
        _verify_everywhere(file, reference, data, certificate, settings)
    _verify_once(file, reference, data, runtime, certificate, settings)


def _limits(gate: list[str] | None, gates: Path | None) -> dict[str, float | None]:
    from aps_deploy.verification import parse_gates, read_gates

    return {**({} if gates is None else read_gates(gates)), **parse_gates(gate or [])}


def _preparation(
    preprocessing: str | None, image_size: int | None, resize: int | None, mean: str | None, std: str | None
) -> Preparation:
    from aps_deploy.verification.preparing import Preparation, numbers_of

    return Preparation(preprocessing, image_size, resize, numbers_of(mean, "--mean"), numbers_of(std, "--std"))


def _probe(
    file: str, data: Path | None, images: int | None, runtime: str | None, output: Path | None, seed: int
) -> NoReturn:
    """Run operators one by one."""
    from aps_deploy.verification.probe.path import probe_path, probe_result_path
    from aps_deploy.verification.probe.result import probe_table

    output = output or probe_result_path(file)
    result = probe_path(
        file, data, num_images=images, runtime=runtime, output=output, seed=seed, progress=progress_line()
    )
    print_table(probe_table(result))
    typer.echo(f"probe: {output}")
    raise typer.Exit(result.exit_code)


def _judge_saved(
    saved: Path, limits: dict[str, float | None], output: Path | None, report: Path | None, junit: Path | None
) -> NoReturn:
    """Judge a certificate by other limits."""
    from aps_deploy.verification import judge_path

    result = judge_path(saved, gates=limits, output=output, report=report, junit=junit)
    _show(result, {"certificate": output, "report": report, "junit": junit})


def _save_answers(reference: str, data: Path, output: Path, settings: dict[str, Any]) -> NoReturn:
    """Run the reference alone, for another machine."""
    from aps_deploy.progress_bar import Progress
    from aps_deploy.verification.paths import save_reference_path

    with Progress(None) as progress:
        count = save_reference_path(reference, data, output, progress=progress.report, **settings)
    typer.echo(f"answers of {reference} to {count} images: {output}")
    raise typer.Exit


def _verify_everywhere(
    file: str, reference: str | None, data: Path, output: Path | None, settings: dict[str, Any]
) -> NoReturn:
    """Verify in every runtime of the machine."""
    from aps_deploy.progress_bar import Progress
    from aps_deploy.verification.every_runtime import exit_code_of, verify_every_runtime
    from aps_deploy.verification.table import runtimes_table

    with Progress(None) as progress:
        results = verify_every_runtime(file, reference, data, output=output, progress=progress.report, **settings)
    print_table(runtimes_table(results))
    for each in results:
        if each.path is not None:
            typer.echo(f"certificate: {each.path}")
    raise typer.Exit(exit_code_of(results))


def _verify_once(
    file: str, reference: str | None, data: Path, runtime: str | None, output: Path | None, settings: dict[str, Any]
) -> NoReturn:
    """Verify in one runtime."""
    from aps_deploy.progress_bar import Progress
    from aps_deploy.verification import certificate_path, verify_path

    output = output or certificate_path(file)
    with Progress(None) as progress:
        result = verify_path(
            file, reference, data, runtime=runtime, output=output, progress=progress.report, **settings
        )
    written = {"certificate": output, "report": settings["report"], "junit": settings["junit"]}
    _show(result, {**written, "saved reference": settings["save_to"]})


def _show(result: Certificate, written: dict[str, Path | None]) -> NoReturn:
    from aps_deploy.verification import certificate_table

    print_table(certificate_table(result))
    for what, path in written.items():
        if path is not None:
            typer.echo(f"{what}: {path}")
    raise typer.Exit(result.exit_code)
