"""What ``aps-deploy demo`` does, step by step."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aps_deploy.demo.change_maps import change_maps
from aps_deploy.demo.engine import compile_engine
from aps_deploy.demo.live import write_repository
from aps_deploy.demo.measuring import Measurement, Workload, measure, reference_logits
from aps_deploy.demo.picture import save_heat_maps
from aps_deploy.demo.samples import sample_folder, write_training_tree
from aps_deploy.errors import ApsError, InputError
from aps_deploy.export import export_checkpoint
from aps_deploy.export.engines.engine_export import DEFAULT_FORM
from aps_deploy.files import write_json
from aps_deploy.images import ImageSet, find_images, load_folder
from aps_deploy.models import load_checkpoint, packaged_models
from aps_deploy.runtimes import available_runtimes, resolve_runtime
from aps_deploy.training.loop import run_training
from aps_deploy.training.settings import TrainSettings
from aps_deploy.verification import Consistency, shift_set, verify_path

Report = Callable[[str], None]
Progress = Callable[[str, int, int], None]

_LOGGER = logging.getLogger(__name__)

STRIDED, APS = "resnet20", "resnet20_aps3"
FORMS = ("where", "gather", "one-pass", "custom-op")
RESULTS_FILE = "demo.json"
PICTURE_FILE = "shift-heat-map.png"
REPOSITORY_FOLDER = "models"
# The onnx package's evaluator is written in Python for clarity: a few images and shifts are what time allows.
_REFERENCE_IMAGES = 8
_REFERENCE_SHIFTS = 3
# A trained network only needs a nudge.
_FINE_TUNE_RATE = 0.002


@dataclass(frozen=True)
class DemoSettings:
    """Choices of the demonstration.

    Attributes:
        out_dir: folder for everything it makes; replaced if an earlier demonstration made it.
        num_shifted: images tried under every one of the shifts.
        fine_tune_epochs: epochs of the training step.
    """

    out_dir: Path = Path("aps-deploy-demo")
    num_shifted: int = 8
    fine_tune_epochs: int = 2


@dataclass(frozen=True)
class ExportedFile:
    """One file of the comparison: its network, how it states its selection, and where it is.

    Attributes:
        model: the network.
        form: ``checkpoint``, ``plan``, or how an ONNX file states the selection.
        path: the file.
        engine_runtime: of a plan, the runtime that runs it on this machine; None where none does.
    """

    model: str
    form: str
    path: Path
    engine_runtime: str | None = None

    def runtimes(self) -> list[str]:
        """Return the runtimes of this machine that run it, without those that are extras."""
        if self.form == "plan":
            return [] if self.engine_runtime is None else [self.engine_runtime]
        kind = "checkpoint" if self.form == "checkpoint" else "onnx"
        usable = [resolve_runtime(status.name) for status in available_runtimes() if status.available]
        return [info.name for info in usable if info.reads == kind and not info.is_extra]


@dataclass(frozen=True)
class DemoResult:
    """How the demonstration ended.

    Attributes:
        measurements: the table.
        all_verified: whether ``verify`` passed every file of the APS network.
        picture: the heat map.
        results: everything as JSON.
        repository: both networks in the layout that `aps-deploy serve` reads.
        seconds: wall time.
    """

    measurements: tuple[Measurement, ...]
    all_verified: bool
    picture: Path
    results: Path
    repository: Path
    seconds: float


def run_demo(
    settings: DemoSettings | None = None, *, report: Report = _LOGGER.info, progress: Progress | None = None
) -> DemoResult:
    """Train, export, verify and compare, and leave everything in the output folder.

    What an earlier demonstration left there is replaced once the new one is whole, and kept until then.

    Args:
        settings: None for the defaults.
        report: told in one sentence what is being done.
        progress: told how far a long measurement is.

    Raises:
        InputError: the output folder holds something else, or too many images are asked for.
        ApsError: a step failed.
    """
    settings = settings or DemoSettings()
    started = time.monotonic()
    out_dir = settings.out_dir.resolve()
    _check_settings(settings)
    _check_replaceable(out_dir)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    with _cleaned_up_when_killed(), _removed_unless_renamed(work):
        measurements = _steps(settings, work, report, progress)
        write_json(work / RESULTS_FILE, [_as_json(line) for line in measurements])
        work.chmod(0o755)
        _put_in_place(work, out_dir)
    return DemoResult(
        measurements=measurements,
        all_verified=all(line.verified for line in measurements if line.model == APS),
        picture=out_dir / PICTURE_FILE,
        results=out_dir / RESULTS_FILE,
        repository=out_dir / REPOSITORY_FOLDER,
        seconds=time.monotonic() - started,
    )


@contextlib.contextmanager
def _removed_unless_renamed(work: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _cleaned_up_when_killed() -> Iterator[None]:
    """Let SIGTERM unwind the stack like Ctrl-C; by default it ends the process where it stands."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _check_settings(settings: DemoSettings) -> None:
    available = len(find_images(sample_folder()))
    if not 1 <= settings.num_shifted <= available:
        raise InputError(f"--images {settings.num_shifted} is not possible: the package brings {available} images.")
    if settings.fine_tune_epochs < 1:
        raise InputError(f"--epochs {settings.fine_tune_epochs} trains nothing; give 1 or more.")


def _check_replaceable(out_dir: Path) -> None:
    if out_dir == Path.cwd():
        raise InputError("the demonstration cannot replace the current folder; give a new one with --out-dir.")
    if not out_dir.exists():
        return
    if not out_dir.is_dir() or not (out_dir / RESULTS_FILE).is_file():
        raise InputError(f"{out_dir} exists and was not made by the demonstration; give another folder with --out-dir.")
    foreign = sorted(entry.name for entry in out_dir.iterdir() if not _is_own(entry.name))
    if foreign:
        raise InputError(
            f"{out_dir} holds {foreign[0]}, which is not the demonstration's; move it away, or give another --out-dir."
        )


def _is_own(name: str) -> bool:
    folders_and_results = {RESULTS_FILE, PICTURE_FILE, REPOSITORY_FOLDER, "images", "fine-tuned"}
    return name in folders_and_results or name.startswith((f"{STRIDED}.", f"{APS}."))


def _put_in_place(work: Path, out_dir: Path) -> None:
    """Rename ``work`` to ``out_dir``; an earlier folder is deleted last, so that one of the two is always whole."""
    old = None
    if out_dir.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-old-", dir=out_dir.parent))
        os.replace(out_dir, old)
    os.replace(work, out_dir)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _steps(settings: DemoSettings, work: Path, report: Report, progress: Progress | None) -> tuple[Measurement, ...]:
    _fine_tune(settings, work, report)
    packaged = packaged_models()
    checkpoints = {name: packaged[f"{name}.cifar10"] for name in (STRIDED, APS)}
    files = _export(checkpoints, work, report)
    source = next(file for file in files if file.model == APS and file.form == DEFAULT_FORM)
    engine = compile_engine(source.path, work / f"{APS}.plan", report)
    if engine is not None:
        files.append(ExportedFile(APS, "plan", engine.path, engine.runtime))
    verdicts = _verify(work, checkpoints, files, report, progress)
    return _compare(settings, work, checkpoints, files, verdicts, report, progress)


def _fine_tune(settings: DemoSettings, work: Path, report: Report) -> None:
    """Exercise training; the network it makes stays in the folder, and the rest is about the packaged ones."""
    tree = work / "images"
    num_train, num_val = write_training_tree(tree)
    report(f"fine-tuning {APS} for {settings.fine_tune_epochs} epochs on {num_train} images, to show training")
    result = run_training(
        TrainSettings(
            arch=APS,
            recipe="fast",
            data=tree,
            out_dir=work / "fine-tuned",
            epochs=settings.fine_tune_epochs,
            batch_size=32,
            learning_rate=_FINE_TUNE_RATE,
            weights=packaged_models()[f"{APS}.cifar10"],
            progress=False,
        )
    )
    if result.interrupted_by is not None:
        raise ApsError(f"the demonstration was stopped by {result.interrupted_by}; nothing was kept.")
    accuracy = result.metrics.get("validation_accuracy", float("nan"))
    report(f"fine-tuned: {accuracy:.1%} of {num_val} validation images right; the packaged networks go on from here")


def _export(checkpoints: dict[str, Path], work: Path, report: Report) -> list[ExportedFile]:
    report(f"exporting {STRIDED}, and {APS} in the forms {', '.join(FORMS)}")
    files = [ExportedFile(STRIDED, "where", work / f"{STRIDED}.onnx")]
    files += [ExportedFile(APS, form, work / f"{APS}.{form}.onnx") for form in FORMS]
    for file in files:
        export_checkpoint(checkpoints[file.model], file.path, polyphase=file.form)
    write_repository(work / REPOSITORY_FOLDER, {file.model: file.path for file in files if file.form == "where"})
    return files


def _verify(
    work: Path, checkpoints: dict[str, Path], files: list[ExportedFile], report: Report, progress: Progress | None
) -> dict[tuple[Path, str], bool]:
    """Return the verdict of ``verify`` on every file in every runtime, leaving the certificates in ``work``."""
    report("verifying every file against its checkpoint, in every runtime of this machine")
    verdicts = {}
    for file in _with_checkpoints(checkpoints, files):
        for runtime in file.runtimes():
            slow = runtime == "onnx-reference"
            certificate = verify_path(
                file.path,
                checkpoints[file.model],
                sample_folder(),
                num_images=_REFERENCE_IMAGES if slow else None,
                shifts=_REFERENCE_SHIFTS if slow else "group",
                runtime=runtime,
                output=work / f"{file.model}.{file.form}.{runtime}.certificate.json",
                progress=progress,
            )
            verdicts[file.path, runtime] = certificate.passed
    return verdicts


def _compare(
    settings: DemoSettings,
    work: Path,
    checkpoints: dict[str, Path],
    files: list[ExportedFile],
    verdicts: dict[tuple[Path, str], bool],
    report: Report,
    progress: Progress | None,
) -> tuple[Measurement, ...]:
    """Return the table, and draw the picture from its ONNX Runtime lines."""
    network = load_checkpoint(checkpoints[APS])
    data = load_folder(sample_folder(), network.preprocessing)
    side = network.preprocessing.image_size
    every = shift_set("all", height=side, width=side)
    report(f"trying all {len(every) + 1:,} shifts on {settings.num_shifted} images, in every runtime")
    # The images and shifts that ``verify`` took in the slow runtime, so that table and verdict are about the same.
    few = load_folder(sample_folder(), network.preprocessing, _REFERENCE_IMAGES)
    full = Workload(data, _spread(data, settings.num_shifted).images, every)
    brief = Workload(few, few.images, shift_set(_REFERENCE_SHIFTS, height=side, width=side))
    expected = {
        (name, workload is brief): reference_logits(path, workload.data.images)
        for name, path in checkpoints.items()
        for workload in (full, brief)
    }
    lines = []
    drawn: dict[str, tuple[Path, Consistency]] = {}
    for file in _with_checkpoints(checkpoints, files):
        for runtime in file.runtimes():
            line = measure(
                file.path,
                model=file.model,
                form=file.form,
                runtime=runtime,
                workload=brief if runtime == "onnx-reference" else full,
                expected=expected[file.model, runtime == "onnx-reference"],
                verified=verdicts[file.path, runtime],
                progress=progress,
            )
            lines.append(line)
            if runtime == "onnxruntime" and file.form == "where":
                drawn[f"{file.model}.onnx"] = file.path, line.consistency
    report(f"drawing what shifts do to all {len(data)} images")
    maps, num_images = change_maps(
        {title: path for title, (path, _) in drawn.items()},
        data.images,
        {title: found for title, (_, found) in drawn.items()},
        total_stride=network.spec.total_stride,
        progress=progress,
    )
    save_heat_maps(work / PICTURE_FILE, maps, num_images)
    return tuple(lines)


def _with_checkpoints(checkpoints: dict[str, Path], files: list[ExportedFile]) -> list[ExportedFile]:
    """Return the checkpoints and the files, one network after the other."""
    return [
        file
        for name, path in checkpoints.items()
        for file in (ExportedFile(name, "checkpoint", path), *files)
        if file.model == name
    ]


def _spread(data: ImageSet, count: int) -> ImageSet:
    # The folder's order is by class: take images at equal distances.
    rows = slice(0, len(data) // count * count, len(data) // count)
    labels = None if data.labels is None else data.labels[rows]
    return dataclasses.replace(data, images=data.images[rows], labels=labels, paths=data.paths[rows])


def _as_json(line: Measurement) -> dict[str, object]:
    document = dataclasses.asdict(line)
    document["consistency"] = line.consistency.to_dict()
    return document
