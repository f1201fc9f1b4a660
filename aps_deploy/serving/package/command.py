"""The command `aps-deploy package`: its options, and nothing that is not needed to show its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aps_deploy.serving.package.settings import TRITON_IMAGE, PackageSettings


def package(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="ONNX file or TensorRT plan.", show_default=False)],
    triton: Annotated[
        Path, typer.Option("--triton", metavar="DIR", help="Folder of models, new or not.", show_default=False)
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the model [default: the file's].")
    ] = None,
    version: Annotated[int, typer.Option("--model-version", metavar="N", help="Version of the model.")] = 1,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="cpu or cuda [default: the server's choice].")
    ] = None,
    instances: Annotated[int, typer.Option("--instances", metavar="N", help="Sessions per device.")] = 1,
    max_batch: Annotated[int, typer.Option("--max-batch", metavar="N", help="Most images in one run.")] = 16,
    batch_delay_ms: Annotated[
        float, typer.Option("--batch-delay-ms", metavar="MS", help="How long a request waits for others.")
    ] = 0.0,
    max_queue: Annotated[
        int, typer.Option("--max-queue", metavar="N", help="Requests that may wait; more are refused.")
    ] = 256,
    deadline_ms: Annotated[
        float, typer.Option("--deadline-ms", metavar="MS", help="How long a request may wait.")
    ] = 10_000.0,
    image: Annotated[
        Path | None,
        typer.Option("--warmup-image", metavar="FILE", help="Image of the warm-up [default: one of the package]."),
    ] = None,
    with_preprocessing: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing", help="Add NAME_image, which takes JPEG and PNG (Triton's Python backend)."
        ),
    ] = False,
    compose: Annotated[bool, typer.Option("--compose", help="Write compose.yaml for NVIDIA's Triton image.")] = False,
    kserve: Annotated[bool, typer.Option("--kserve", help="Write kserve.yaml, an InferenceService.")] = False,
    storage_uri: Annotated[
        str | None, typer.Option("--storage-uri", metavar="URI", help="Where the cluster will find DIR, for --kserve.")
    ] = None,
    triton_image: Annotated[
        str, typer.Option("--triton-image", metavar="IMAGE", help="Container image, for --compose.")
    ] = TRITON_IMAGE,
    without_certificate: Annotated[
        bool, typer.Option("--without-certificate", help="Also package a file that was not proven.")
    ] = False,
) -> None:
    """Package a proven file for NVIDIA Triton.

    Writes a model repository: the file with its certificate, config.pbtxt, labels and a warm-up image; on request an
    ensemble that takes encoded images, a compose file and a KServe manifest. `aps-deploy serve DIR` serves it too.
    """
    settings = PackageSettings(
        file=file,
        repository=triton,
        name=name,
        version=version,
        device=device,
        instances=instances,
        max_batch=max_batch,
        batch_delay_ms=batch_delay_ms,
        max_queue=max_queue,
        deadline_ms=deadline_ms,
        image=image,
        requires_certificate=not without_certificate,
        prepares_images=with_preprocessing,
        compose=compose,
        kserve=kserve,
        storage_uri=storage_uri,
        triton_image=triton_image,
    )
    from aps_deploy.serving.package.writing import package as write_package

    written = write_package(settings)
    for note in written.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{written.repository}: {', '.join(written.models)}, version {settings.version}")
    for path in written.files:
        typer.echo(f"{path}")
    if settings.compose:
        typer.echo(f"next: docker compose --file {written.files[0]} up --wait")
    else:
        typer.echo(f"next: tritonserver --model-repository={written.repository}")
