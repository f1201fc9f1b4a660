"""What a CUDA machine shows: its GPU, the tests marked `gpu`, the kernels, networks with and without selection.

    python -m benchmarks.gpu                                    # benchmarks/results/<gpu>.json: some ten minutes
    python -m benchmarks.gpu --tests tests.xml --output DIR     # as ./scripts/gpu-test does, with JUnit XML

Each network with selection runs beside the same one with a plain blur, in one runtime after the other: PyTorch, PyTorch
compiled, ONNX Runtime, and TensorRT where there is one that runs on the GPU. Times are the GPU's, by CUDA events.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from aps_deploy.bench.files import FileSettings, measure_files
from aps_deploy.errors import ApsError
from aps_deploy.export import export_checkpoint
from aps_deploy.export.engines import EngineSettings, Profile, export_engine
from aps_deploy.models import create_model, save_checkpoint
from aps_deploy.preprocessing import CIFAR10, IMAGENET
from aps_deploy.runtimes.tensorrt.gpu import first_gpu
from aps_deploy.runtimes.tensorrt.toolkit import TOOLKITS, EngineKind
from benchmarks import selection_bandwidth
from benchmarks.gpu.networks import MOST_OVER_LPF
from benchmarks.reporting import RESULTS_FOLDER, gpu_file_name, judged, keep

PAIRS = (("resnet20_aps3", "resnet20_lpf3"), ("resnet18_aps3", "resnet18_lpf3"))
RUNTIMES = ("torch", "torch-compiled", "onnxruntime", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx")
BATCH = 64
_DISTRIBUTIONS = ("torch", "triton", "onnxruntime-gpu", "tensorrt-cu13", "tensorrt-rtx-cu13", "onnx", "numpy")


def main() -> None:
    options = _options()
    document: dict[str, Any] = {"environment": environment()}
    if options.tests is not None:
        document["tests"] = tests_of(options.tests)
    reason = selection_bandwidth.why_not_here()
    document["kernels"] = {"skipped": reason} if reason is not None else selection_bandwidth.measure()
    document["batch_size"] = options.batch_size
    document["measured"] = [
        beside(selecting, blurred, runtime, device=options.device, batch_size=options.batch_size, rounds=options.rounds)
        for selecting, blurred in (pair.split(":") for pair in options.pairs)
        for runtime in options.runtimes
    ]
    keep(options.output / gpu_file_name(str(document["environment"]["device"])), document)


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


def tests_of(junit: Path) -> dict[str, Any]:
    """Return how many tests passed, which failed, and why the others were skipped, from pytest's JUnit XML."""
    passed, failed, skipped = 0, list[str](), dict[str, str]()
    for case in ElementTree.parse(junit).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        reason = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif reason is not None:
            skipped[name] = str(reason.get("message"))
        else:
            passed += 1
    return {"passed": passed, "failed": failed, "skipped": skipped}


def beside(selecting: str, blurred: str, runtime: str, *, device: str, batch_size: int, rounds: int) -> dict[str, Any]:
    """Return the times of two networks in one runtime, and their ratio; or why they do not run there."""
    row: dict[str, Any] = {"arch": selecting, "against": blurred, "runtime": runtime}
    with tempfile.TemporaryDirectory() as folder:
        try:
            files = [_file(name, runtime, Path(folder), batch_size) for name in (selecting, blurred)]
            settings = FileSettings(
                (files[0],), against=files[1], runtimes=(runtime,), device=device, batch_size=batch_size, rounds=rounds
            )
            result = measure_files(settings)
        except ApsError as error:
            return {**row, "skipped": str(error)}
    base, own = result.measured
    has_bar = selecting == "resnet18_aps3" and runtime == "torch-compiled" and device == "cuda"
    return {
        **row,
        "image_size": result.image_size,
        "clock": own.clock,
        "is_stable": own.is_stable and base.is_stable,
        "p50_ms": own.p50_ms,
        "against_p50_ms": base.p50_ms,
        "images_per_s": own.images_per_s,
        **judged(own.ratio, at_most=MOST_OVER_LPF if has_bar else None),
    }


def _file(arch: str, runtime: str, folder: Path, batch_size: int) -> str:
    """Return a freshly initialised network in the form that a runtime reads, written into a folder."""
    checkpoint = folder / f"{arch}.safetensors"
    model = create_model(arch).eval()
    preprocessing = CIFAR10 if model.spec.family == "cifar" else IMAGENET
    names = [str(number) for number in range(model.options.num_classes)]
    save_checkpoint(checkpoint, model, preprocessing=preprocessing, class_names=names)
    if runtime.startswith("torch"):
        return str(checkpoint)
    exported = export_checkpoint(checkpoint, folder / f"{arch}.onnx").path
    kinds: list[EngineKind] = [info.kind for info in TOOLKITS.values() if info.runtime == runtime]
    if not kinds:
        return str(exported)
    settings = EngineSettings(kinds[0], (Profile((batch_size,) * 3),))
    return str(export_engine(exported, folder / f"{arch}.plan", settings).path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--pairs", nargs="+", metavar="A:B", default=[":".join(pair) for pair in PAIRS])
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the command itself")
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=20, help="runs of each network in a window")
    parser.add_argument("--tests", type=Path, metavar="XML", help="how the tests ended, as pytest writes it")
    parser.add_argument("--output", type=Path, default=RESULTS_FOLDER, metavar="DIR")
    return parser.parse_args()
