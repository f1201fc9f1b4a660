"""What `aps-deploy verify` costs beside the runs of the model itself: images per second through both, interleaved.

    python -m benchmarks.verify_throughput                           # 10,000 images, resnet20_aps3, a few minutes
    python -m benchmarks.verify_throughput --images 256 --rounds 3
    python -m benchmarks.verify_throughput --write                   # also benchmarks/results/verify_throughput.json

Two ratios, both of them shares of the bare ONNX Runtime session's throughput:

- *consistency pass*: in every round the session runs one chunk of images under all shifts of the stride-product group,
  prepared beforehand, and `measure_consistency` measures the same chunk from the image files: decoding, shifting,
  comparing, counting. The order of the two changes from round to round.
- *whole verification*: `verify_path` with saved answers of the reference, certificate included, against the time that
  the bare session needs to answer for every image under the whole group, the shift by nothing among them. What the
  verification runs besides (scores, the authors' protocol, batches) is overhead here. Making the reference's answers is
  timed apart.

The packaged images are repeated until there are enough.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.bench.timing import interleaved, ratios, spread
from aps_deploy.export import export_checkpoint
from aps_deploy.image_stream import StreamedImages
from aps_deploy.images import find_images_anywhere
from aps_deploy.packaged import packaged_images
from aps_deploy.preprocessing import Preprocessing
from aps_deploy.runtimes import ModelMetadata, open_session
from aps_deploy.runtimes.batching import batches
from aps_deploy.runtimes.onnxruntime_session import session_options, start_session
from aps_deploy.verification import measure_consistency, shift_set, verify_path
from aps_deploy.verification.paths import save_reference_path
from aps_deploy.verification.shifts import ShiftSet
from benchmarks.machine import machine
from benchmarks.reporting import add_write_option, keep, run_command

RESULTS = Path(__file__).with_name("results") / "verify_throughput.json"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        file: ONNX file.
        paths: image files, N of them.
        preprocessing: the file's.
        shifts: the stride-product group.
        batch_size: images per run.
        num_threads: of ONNX Runtime; None leaves its choice.
    """

    file: Path
    paths: list[Path]
    preprocessing: Preprocessing
    shifts: ShiftSet
    batch_size: int
    num_threads: int | None


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_checkpoint(options.checkpoint, file)
        setting = _setting(options, file)
        consistency = consistency_ratios(setting, options.rounds)
        whole = whole_verification(setting, options.checkpoint, Path(folder), consistency["raw_images_per_s"]["median"])
    document = {
        "checkpoint": options.checkpoint,
        "num_images": options.images,
        "num_shifts": len(setting.shifts),
        "batch_size": options.batch_size,
        "num_threads": options.threads,
        **machine(),
        "consistency_pass": consistency,
        "whole_verification": whole,
    }
    print(json.dumps(document, indent=2))
    share = consistency["share_of_raw"]
    print(
        f"consistency pass: {100 * share['median']:.1f} % of the raw session's throughput "
        f"({100 * share['smallest']:.1f} to {100 * share['largest']:.1f} % over {options.rounds} rounds); "
        f"whole verification: {100 * whole['share_of_raw']:.1f} %"
    )
    if options.write:
        keep(options.write, document)


def consistency_ratios(setting: Setting, rounds: int) -> dict[str, Any]:
    """Return throughputs in images (shifted ones) per second and their ratio, one of each per round."""
    raw = start_session(os.fspath(setting.file), "cpu", session_options(setting.num_threads), "the benchmark's file")
    name = raw.get_inputs()[0].name
    chunks = np.array_split(np.arange(len(setting.paths)), rounds)
    raw_rates, rates = [], []
    with open_session(setting.file, device="cpu", num_threads=setting.num_threads) as session:
        warm = StreamedImages(setting.paths[: setting.batch_size], setting.preprocessing)[:]
        for _ in range(3):
            raw.run(None, {name: warm})
            session.run(warm)
        for number, chunk in enumerate(chunks):
            paths = [setting.paths[position] for position in chunk]
            prepared = _prepared(StreamedImages(paths, setting.preprocessing), setting)
            base = np.concatenate([raw.run(None, {name: batch})[0] for batch in prepared])
            runs = len(paths) * len(setting.shifts)

            def bare(prepared: list[npt.NDArray[np.float32]] = prepared) -> None:
                for batch, _ in itertools.product(prepared, setting.shifts.offsets):
                    raw.run(None, {name: batch})

            def measured(paths: list[Path] = paths, base: npt.NDArray[np.float32] = base) -> None:
                images = StreamedImages(paths, setting.preprocessing)
                measure_consistency(session, images, setting.shifts, batch_size=setting.batch_size, base=base)

            seconds = interleaved({"raw": bare, "verify": measured}, rounds=1, warm_up=0, first=number)
            raw_rates.append(runs / seconds["raw"][0])
            rates.append(runs / seconds["verify"][0])
    return {
        "rounds": rounds,
        "raw_images_per_s": spread(raw_rates),
        "verify_images_per_s": spread(rates),
        "share_of_raw": spread(ratios(rates, raw_rates)),
    }


def whole_verification(setting: Setting, checkpoint: str, folder: Path, raw_rate: float) -> dict[str, Any]:
    """Return how long a verification with saved answers takes, against the bare session's rate in images per second."""
    data = folder / "images"
    data.mkdir()
    for number, path in enumerate(setting.paths):
        (data / f"{number:06d}{path.suffix}").symlink_to(path)
    answers, count = folder / "answers.npz", len(setting.paths)
    start = time.perf_counter()
    save_reference_path(checkpoint, data, answers, num_images=count, batch_size=setting.batch_size)
    reference_s = time.perf_counter() - start
    start = time.perf_counter()
    certificate = verify_path(
        setting.file,
        answers,
        data,
        num_images=count,
        device="cpu",
        batch_size=setting.batch_size,
        output=folder / "certificate.json",
    )
    verify_s = time.perf_counter() - start
    pairs = certificate.counts["pairs"] + certificate.counts["tied_pairs"]
    answers_needed = count + pairs
    return {
        "passed": certificate.passed,
        "pairs": pairs,
        "reference_s": reference_s,
        "verify_s": verify_s,
        "share_of_raw": answers_needed / raw_rate / verify_s,
        # Linux counts in KiB. The process also traced the network, ran PyTorch and held the prepared chunks.
        "largest_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _prepared(images: StreamedImages, setting: Setting) -> list[npt.NDArray[np.float32]]:
    return [images[rows] for rows in batches(len(images), setting.batch_size)]


def _setting(options: argparse.Namespace, file: Path) -> Setting:
    metadata = ModelMetadata.from_onnx(file)
    preprocessing = metadata.preprocessing
    if preprocessing is None:
        sys.exit(f"{options.checkpoint} says nothing of its preprocessing")
    found = find_images_anywhere(options.data or packaged_images()["cifar10"])
    paths = [path.resolve() for path in itertools.islice(itertools.cycle(found), options.images)]
    side = preprocessing.image_size
    shifts = shift_set("group", height=side, width=side, size_divisor=metadata.total_stride)
    return Setting(file, paths, preprocessing, shifts, options.batch_size, options.threads)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Throughput of a verification beside the bare session's.")
    parser.add_argument("--checkpoint", default="resnet20_aps3.cifar10", help="checkpoint or packaged name")
    parser.add_argument("--data", type=Path, help="folder of images [default: the packaged ones]")
    parser.add_argument("--images", type=int, default=10_000, help="images, repeated until there are enough")
    parser.add_argument("--rounds", type=int, default=10, help="chunks that the images are measured in")
    parser.add_argument("--batch-size", type=int, default=64, help="images per run")
    parser.add_argument("--threads", type=int, help="threads of ONNX Runtime in the consistency pass")
    add_write_option(parser, RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
