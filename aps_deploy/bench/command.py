"""The command `aps-deploy bench`: its arguments and options, and nothing that is not needed to show its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aps_deploy import options
from aps_deploy.console import print_json, print_table, progress_line
from aps_deploy.errors import InputError

_ONLY_URL = ("concurrency", "warm_up_s", "window_s", "token_file", "timeout_s")
_ONLY_FILES = ("against", "runtime", "device", "threads", "rounds")


def bench(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE...]", help="Models to run side by side; or --url.", show_default=False),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", metavar="URL", help="Server to load: http://HOST:PORT or grpc://HOST:PORT, and /v2/models/NAME."
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="FILE", help="Model that the others' times are divided by.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images per run or request.")] = 1,
    image_size: options.ImageSize = None,
    concurrency: Annotated[
        str, typer.Option("--concurrency", metavar="N,...", help="Numbers of clients, one after the other.")
    ] = "1,2,4,8,16,32",
    warm_up_s: Annotated[
        float, typer.Option("--warm-up", metavar="S", help="Seconds before anything counts, each time.")
    ] = 1.0,
    window_s: Annotated[
        float, typer.Option("--window", metavar="S", help="Length of a window; three in a row have to agree.")
    ] = 1.0,
    timeout_s: Annotated[float, typer.Option("--timeout-s", metavar="S", help="How long an answer may take.")] = 60.0,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="File with the server's bearer token [default: the variable APS_DEPLOY_TOKEN].",
        ),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            metavar="NAME",
            help="Runtime, repeatable; or all: every one of this machine [default: the files' own].",
        ),
    ] = None,
    device: options.Device = None,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", help="Threads of one run.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, metavar="N", help="Runs of each model in a window.")] = 10,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure a server under load, or models beside each other.

    With --url more and more clients ask a running server, and every answer is compared, bit for bit, with the one that
    the same image got alone; refusals (429, 503) are counted apart. With FILES each model runs once in every round, on
    the same images, window by window until three in a row agree; on a GPU CUDA events tell the times.
    """
    from aps_deploy.bench.table import files_table, load_table

    if (url is None) == (not files):
        raise InputError("give either models to run, or --url of a server to load.")
    if url is None:
        options.refuse_given(context, "there is no --url", _ONLY_URL)
        from aps_deploy.bench.files import FileSettings, measure_files

        found = measure_files(
            FileSettings(
                tuple(files or ()),
                against=against,
                batch_size=batch_size,
                image_size=image_size,
                runtimes=tuple(runtime or ()),
                device=device,
                num_threads=threads,
                rounds=rounds,
                seed=seed,
            )
        )
        print_json(found.to_dict()) if json else print_table(files_table(found))
        return
    options.refuse_given(context, "--url measures a server as it runs", _ONLY_FILES)
    from aps_deploy.bench.load import LoadSettings, measure_load
    from aps_deploy.serving.access import read_token

    settings = LoadSettings(
        url,
        concurrencies=_numbers(concurrency),
        batch_size=batch_size,
        image_size=image_size,
        warm_up_s=warm_up_s,
        window_s=window_s,
        timeout_s=timeout_s,
        seed=seed,
        token=read_token(token_file),
    )
    result = measure_load(settings, progress=None if json else progress_line())
    print_json(result.to_dict()) if json else print_table(load_table(result))
    result.check()


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 0 < int(part) <= 4096 for part in parts):
        raise InputError(f"--concurrency is {text!r}; accepted: numbers of clients from 1 to 4096, such as 1,8,64.")
    return tuple(int(part) for part in parts)
