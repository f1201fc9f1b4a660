"""The command `aps-deploy serve`: its options, and nothing that is not needed to show its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from aps_deploy import options
from aps_deploy.serving.settings import Batching, OnnxRuntime, ServeSettings


def serve(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|REPOSITORY",
            help="ONNX file or engine, or folder in Triton's layout (NAME/1/model.onnx).",
            show_default=False,
        ),
    ],
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", help="HTTP port; 0 takes a free one.")] = 8000,
    grpc_port: Annotated[int, typer.Option("--grpc-port", metavar="N", help="gRPC port; 0 takes a free one.")] = 8001,
    grpc: Annotated[bool, typer.Option("--grpc/--no-grpc", help="Whether to serve gRPC.")] = True,
    runtime: Annotated[
        OnnxRuntime,
        typer.Option(
            "--runtime", help="What runs ONNX files; with kernels: of `export --polyphase custom-op`, on the CPU."
        ),
    ] = "onnxruntime",
    device: options.Device = None,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", help="Threads of one run [default: the cores, shared].")
    ] = None,
    instances: Annotated[int, typer.Option("--instances", metavar="N", help="Sessions per model.")] = 1,
    max_batch: Annotated[int, typer.Option("--max-batch", metavar="N", help="Most images in one run.")] = 16,
    batch_delay_ms: Annotated[
        float, typer.Option("--batch-delay-ms", metavar="MS", help="How long a request waits for others.")
    ] = 0.0,
    batching: Annotated[
        Batching,
        typer.Option("--batching", help="Join requests where that changes no bit of an answer, always, or never."),
    ] = "exact",
    max_queue: Annotated[
        int, typer.Option("--max-queue", metavar="N", help="Requests that may wait per model; more are refused.")
    ] = 256,
    deadline_ms: Annotated[
        float, typer.Option("--deadline-ms", metavar="MS", help="How long a request may wait.")
    ] = 10_000.0,
    max_body_mb: Annotated[
        float, typer.Option("--max-body-mb", metavar="MB", help="Largest request body, also decompressed.")
    ] = 64.0,
    max_image_megapixels: Annotated[
        float, typer.Option("--max-image-megapixels", metavar="N", help="Largest image that is decoded.")
    ] = 50.0,
    max_elements: Annotated[
        int, typer.Option("--max-elements", metavar="N", help="Most tensor elements in one request.")
    ] = 1 << 24,
    max_header_kb: Annotated[
        float, typer.Option("--max-header-kb", metavar="KB", help="Largest headers of a request, together.")
    ] = 16.0,
    max_connections: Annotated[
        int, typer.Option("--max-connections", metavar="N", help="Connections at once; further ones get 503.")
    ] = 512,
    header_timeout_s: Annotated[
        float, typer.Option("--header-timeout-s", metavar="S", help="How long the headers may take to arrive.")
    ] = 30.0,
    body_timeout_s: Annotated[
        float, typer.Option("--body-timeout-s", metavar="S", help="How long a body may take, and a response be unread.")
    ] = 30.0,
    drain_delay_s: Annotated[
        float,
        typer.Option("--drain-delay-s", metavar="S", help="After SIGTERM: not ready, but still open, for so long."),
    ] = 0.5,
    drain_s: Annotated[
        float, typer.Option("--drain-s", metavar="S", help="How long accepted requests may take after that.")
    ] = 30.0,
    require_certificate: Annotated[
        bool,
        typer.Option("--require-certificate", help="Serve only files whose certificate, beside them, passed."),
    ] = False,
    canary_s: Annotated[
        float | None,
        typer.Option(
            "--canary",
            metavar="SECONDS",
            help="Shift a stored image through every model so often, and compare the answers [default: never].",
        ),
    ] = None,
    canary_image: Annotated[
        Path | None,
        typer.Option("--canary-image", metavar="FILE", help="That image [default: the model's or a packaged one]."),
    ] = None,
    canary_unready: Annotated[
        bool, typer.Option("--canary-unready", help="Not ready while a model's answer changes with the shift.")
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain (PEM): serve over TLS only.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key (PEM).")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="File with the bearer token that clients must send [default: the variable APS_DEPLOY_TOKEN, or none].",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Without a token and on 127.0.0.1: answer to this name too, which a proxy passes on; repeatable.",
        ),
    ] = None,
    allow_control: Annotated[bool, typer.Option("--allow-control", help="Let clients load and unload models.")] = False,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Log answered requests too, not only refused ones.")
    ] = False,
    traces: Annotated[
        str | None,
        typer.Option(
            "--traces",
            metavar="URL",
            help="Send OpenTelemetry traces to this OTLP collector [default: as the OTEL_ variables say].",
        ),
    ] = None,
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="Whether / is the page on which a picture can be moved.")
    ] = True,
    engine: Annotated[
        Literal["embedded", "ray"],
        typer.Option("--engine", help="One process here, or replicas on the hosts of a Ray cluster."),
    ] = "embedded",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="HOST:PORT|local",
            help="The Ray cluster; local: a new one of this host alone [default: this host's, else local].",
        ),
    ] = None,
    replicas: Annotated[
        str, typer.Option("--replicas", metavar="N|MIN:MAX", help="Replicas; a range lets them follow the load.")
    ] = "1",
    cpus_per_replica: Annotated[
        float, typer.Option("--cpus-per-replica", metavar="N", help="Cores that a replica reserves.")
    ] = 1.0,
    gpus_per_replica: Annotated[
        float, typer.Option("--gpus-per-replica", metavar="N", help="GPUs, or a part of one, that a replica reserves.")
    ] = 0.0,
    target_requests: Annotated[
        float, typer.Option("--target-requests", metavar="N", help="Requests in flight per replica, for MIN:MAX.")
    ] = 16.0,
) -> None:
    """Serve models over HTTP and gRPC.

    Speaks the Open Inference Protocol v2 with Triton's extensions, so that tritonclient and curl work unchanged, and
    takes JPEG and PNG files at /v1/classify. Joins requests into batches, and drains them when it is stopped.
    """
    from aps_deploy.serving.access import read_token
    from aps_deploy.serving.request_log import log_as_json
    from aps_deploy.serving.running import Addresses, run_server

    settings = ServeSettings(
        target=target,
        host=host,
        port=port,
        grpc_port=grpc_port if grpc else None,
        runtime=runtime,
        device=device,
        threads=threads,
        instances=instances,
        max_batch=max_batch,
        batch_delay_ms=batch_delay_ms,
        batching=batching,
        max_queue=max_queue,
        deadline_ms=deadline_ms,
        max_body_mb=max_body_mb,
        max_image_megapixels=max_image_megapixels,
        max_elements=max_elements,
        max_header_kb=max_header_kb,
        max_connections=max_connections,
        header_timeout_s=header_timeout_s,
        body_timeout_s=body_timeout_s,
        drain_delay_s=drain_delay_s,
        drain_s=drain_s,
        require_certificate=require_certificate,
        canary_s=canary_s,
        canary_image=canary_image,
        canary_unready=canary_unready,
        tls_cert=tls_cert,
        tls_key=tls_key,
        token=read_token(token_file),
        allow_hosts=tuple(allow_host or ()),
        allow_control=allow_control,
        access_log=access_log,
        traces=traces,
        page=page,
    )

    def ready(where: Addresses) -> None:
        typer.echo(f"ready: {where.url}" + ("" if where.grpc_port is None else f", gRPC on port {where.grpc_port}"))

    log_as_json()
    if engine == "embedded":
        run_server(settings, started=ready)
        return
    from aps_deploy.serving.cluster.running import run_on_cluster
    from aps_deploy.serving.cluster.settings import ClusterSettings, parse_replicas

    least, most = parse_replicas(replicas)
    cluster = ClusterSettings(ray_address, least, most, cpus_per_replica, gpus_per_replica, target_requests)
    run_on_cluster(settings, cluster, started=ready)
