"""What a CUDA machine shows: its GPU, the tests marked `gpu`, the kernels, networks with and without selection.

    python -m benchmarks.gpu                                 # all into benchmarks/results/<gpu>.json: twenty minutes
    python -m benchmarks.gpu --only tests -k triton          # one part of it; pytest takes what is no option of ours
    python -m benchmarks.gpu --only bandwidth --only bits    # into the same file, beside the tests
    python -m benchmarks.gpu --join FIRST.json SECOND.json   # one result from those of several folders

The file is written after every test and every row: a run that is killed leaves what it did, its part marked as not
finished. What does not run or breaks is a row that says why. The exit code is 1 where a test or a row failed.

Each network with selection runs beside the same one with a plain blur, in one runtime after the other: PyTorch, PyTorch
compiled, ONNX Runtime, and TensorRT where there is one that runs on the GPU. Times are the GPU's, by CUDA events.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aps_deploy.bench.files import FileSettings, measure_files
from aps_deploy.errors import InputError
from aps_deploy.export import export_checkpoint
from aps_deploy.export.engines import EngineSettings, Profile, export_engine
from aps_deploy.models import create_model, save_checkpoint
from aps_deploy.preprocessing import CIFAR10, IMAGENET
from aps_deploy.runtimes.tensorrt.gpu import first_gpu
from aps_deploy.runtimes.tensorrt.toolkit import TOOLKITS, EngineKind
from benchmarks import selection_bandwidth
from benchmarks.gpu.networks import MOST_OVER_LPF
from benchmarks.gpu.result import ROW_KEYS, Entry, Result, joined, read_result
from benchmarks.gpu.testing import OUTCOMES, run_tests
from benchmarks.reporting import RESULTS_FOLDER, gpu_file_name, judged, keep

PAIRS = (("resnet20_aps3", "resnet20_lpf3"), ("resnet18_aps3", "resnet18_lpf3"))
RUNTIMES = ("torch", "torch-compiled", "onnxruntime", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx")
BATCH = 64
_DISTRIBUTIONS = (
    "torch",
    "triton",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt-cu13",
    "tensorrt-rtx-cu13",
    "onnx",
    "numpy",
)


def main() -> int:
    options, for_pytest = _options()
    try:
        if options.join:
            return _join(options.join, options.output)
        here = environment()
        result = Result(options.output / gpu_file_name(str(here["device"])), here)
        if options.only:
            result.take_over()
    except InputError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    status = 0
    for part in options.only or ROW_KEYS:
        try:
            status = max(status, _measure(part, result, options, for_pytest))
        except Exception as error:  # between its rows: the other parts are still worth measuring
            traceback.print_exc()
            result.fail(part, error)
            status = 1
    print(result.path)
    return status


def _measure(part: str, result: Result, options: argparse.Namespace, for_pytest: list[str]) -> int:
    """Fill a part of the result; return 1 where something of it failed."""
    if part == "tests":
        outcomes = options.output / OUTCOMES
        return int(run_tests(for_pytest, outcomes, functools.partial(result.put, "tests")) != 0)
    if part == "networks":
        result.fill("networks", network_entries(options), batch_size=options.batch_size, rounds=options.rounds)
    elif (reason := selection_bandwidth.why_not_here()) is not None:
        result.put(part, {"finished": True, "skipped": reason, "rows": []})
    else:
        selection_bandwidth.fill(result, part, options.rounds)
    for failure in (failures := result.failures(part)):
        print(f"benchmarks.gpu: {part}: {failure}", file=sys.stderr)
    return int(bool(failures))


def network_entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Yield each pair in each runtime, with the call that measures it."""
    settings = {"device": options.device, "batch_size": options.batch_size, "rounds": options.rounds}
    for selecting, blurred in (pair.split(":") for pair in options.pairs):
        for runtime in options.runtimes:
            key = {"arch": selecting, "against": blurred, "runtime": runtime}
            yield key, functools.partial(beside, selecting, blurred, runtime, **settings)


def _join(files: list[Path], output: Path) -> int:
    document = read_result(files[0])
    for file in files[1:]:
        document = joined(document, read_result(file), file)
    keep(output / gpu_file_name(str(document["environment"]["device"])), document)
    return 0


def environment() -> dict[str, Any]:
    """Return the GPU, its driver and the versions of what runs on it; names no host."""
    import torch

    gpu = first_gpu()
    versions: dict[str, str | None] = {}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "device": "cpu" if gpu is None else gpu.name,
        "compute_capability": None if gpu is None else gpu.compute_capability,
        "driver": None if gpu is None else gpu.driver,
        "cuda": torch.version.cuda,
        "versions": versions,
    }


def beside(selecting: str, blurred: str, runtime: str, *, device: str, batch_size: int, rounds: int) -> dict[str, Any]:
    """Return the times of two networks in one runtime, their ratio, and the form of the selection in the file.

    Raises:
        ApsError: they do not run there.
    """
    with tempfile.TemporaryDirectory() as folder:
        own_file, form = _file(selecting, runtime, Path(folder), batch_size)
        base_file, _ = _file(blurred, runtime, Path(folder), batch_size)
        settings = FileSettings(
            (own_file,), against=base_file, runtimes=(runtime,), device=device, batch_size=batch_size, rounds=rounds
        )
        result = measure_files(settings)
    base, own = result.measured
    has_bar = selecting == "resnet18_aps3" and runtime == "torch-compiled" and device == "cuda"
    return {
        "image_size": result.image_size,
        "polyphase": form,
        "clock": own.clock,
        "is_stable": own.is_stable and base.is_stable,
        "p50_ms": own.p50_ms,
        "against_p50_ms": base.p50_ms,
        "images_per_s": own.images_per_s,
        **judged(own.ratio, at_most=MOST_OVER_LPF if has_bar else None),
    }


def _file(arch: str, runtime: str, folder: Path, batch_size: int) -> tuple[str, str | None]:
    """Write a freshly initialised network into a folder, as the command exports it for a runtime.

    Returns:
        the file, and how it writes the selection: for engines not as ONNX files do; None of a checkpoint.
    """
    checkpoint = folder / f"{arch}.safetensors"
    model = create_model(arch).eval()
    preprocessing = CIFAR10 if model.spec.family == "cifar" else IMAGENET
    names = [str(number) for number in range(model.options.num_classes)]
    save_checkpoint(checkpoint, model, preprocessing=preprocessing, class_names=names)
    if runtime.startswith("torch"):
        return str(checkpoint), None
    kinds: list[EngineKind] = [info.kind for info in TOOLKITS.values() if info.runtime == runtime]
    if not kinds:
        exported = export_checkpoint(checkpoint, folder / f"{arch}.onnx")
        return str(exported.path), exported.metadata.polyphase
    settings = EngineSettings(kinds[0], (Profile((batch_size,) * 3),))
    engine = export_engine(checkpoint, folder / f"{arch}.plan", settings)
    return str(engine.path), engine.document["metadata"]["polyphase"]


def _options() -> tuple[argparse.Namespace, list[str]]:
    # No abbreviations: pytest has options that begin like ours.
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--only", action="append", choices=ROW_KEYS, help="a part to measure, beside what the file has; may be repeated"
    )
    parser.add_argument("--join", type=Path, nargs="+", metavar="JSON", help="measure nothing: join these results")
    parser.add_argument("--pairs", nargs="+", metavar="A:B", default=[":".join(pair) for pair in PAIRS])
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the command itself")
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=selection_bandwidth.ROUNDS, help="runs of each")
    parser.add_argument("--output", type=Path, default=RESULTS_FOLDER, metavar="DIR")
    options, others = parser.parse_known_args()
    if others and (options.join or (options.only and "tests" not in options.only)):
        parser.error(f"{' '.join(others)}: pytest's arguments, without the tests; add --only tests.")
    return options, others
