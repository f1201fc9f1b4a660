"""Models beside each other: each runs the same images once in every round, in every runtime that was asked for."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.bench.stopwatch import Stopwatch, run_until_stable
from aps_deploy.bench.timing import percentiles, ratios, spread
from aps_deploy.bench.windows import NUM_AGREEING
from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes import open_session
from aps_deploy.runtimes.availability import RUNTIMES, resolve_runtime
from aps_deploy.runtimes.opening import file_kind
from aps_deploy.runtimes.session import Session

ALL = "all"

# An engine's first run is queued by itself, its second is recorded as a CUDA graph, its third is a replay.
_WARM_UP_RUNS = 3
_NOT_FOR_SPEED = "onnx-reference"


@dataclasses.dataclass(frozen=True)
class FileSettings:
    """What to run.

    Attributes:
        files: checkpoints, ONNX files and engines.
        against: the one whose time the others' are divided by; None takes the first.
        batch_size: images in a run.
        image_size: their height and width, where no file says.
        runtimes: by name; each file runs in those that read it. ``all`` takes those of this machine, but for the
            ReferenceEvaluator, and leaves out what does not run here. None: the files' own.
        device: ``cpu``, ``cuda`` or None: CUDA where it works.
        num_threads: threads of a run; None leaves the runtime's choice.
        rounds: runs of each in a window.
        max_windows: most windows; fewer where the last three of every model agree.
        seed: of the random images.
    """

    files: tuple[str, ...]
    against: str | None = None
    batch_size: int = 1
    image_size: int | None = None
    runtimes: tuple[str, ...] = ()
    device: str | None = None
    num_threads: int | None = None
    rounds: int = 10
    max_windows: int = 10
    seed: int = 0

    @property
    def takes_all(self) -> bool:
        """Whether every runtime of this machine was asked for."""
        return ALL in self.runtimes

    def pairs(self) -> list[tuple[str, str | None]]:
        """Return every file with every runtime that may run it; the one compared against comes first.

        Raises:
            InputError: a file is of an unknown kind, a runtime does not exist, or none of them reads a file.
        """
        names = list(dict.fromkeys([*([] if self.against is None else [self.against]), *self.files]))
        wanted = [resolve_runtime(name) for name in dict.fromkeys(self.runtimes) if name != ALL]
        if self.takes_all:
            wanted = [info for info in RUNTIMES.values() if info in wanted or info.name != _NOT_FOR_SPEED]
        found: list[tuple[str, str | None]] = []
        for file in names:
            kind = file_kind(file)
            fitting = [info.name for info in wanted if info.reads == kind] if wanted else [None]
            if not fitting:
                accepted = ", ".join(info.name for info in RUNTIMES.values() if info.reads == kind)
                raise InputError(f"none of the runtimes given runs {file}; accepted for it: {accepted}.")
            found += [(file, runtime) for runtime in fitting]
        return found


@dataclasses.dataclass(frozen=True)
class Measured:
    """One model in one runtime, by the last three windows.

    Attributes:
        file: the model.
        runtime: the runtime.
        device: where it ran.
        providers: what computed, as the runtime reports it.
        clock: what told its times: ``CUDA events`` on the stream of its GPU work (copies in, network, copies out), or
            ``host``: the whole call.
        run_ms: median, quartiles and extremes of a run, in milliseconds.
        p50_ms: as `p90_ms` and `p99_ms`: so many percent of the runs took at most so long.
        host_p50_ms: median of the whole call by the host's clock, whatever ``clock`` is.
        images_per_s: at the median.
        ratio: its time over that of the first model, spread over the rounds.
        ratio_clock: what told the times of the ratio: the host where the two models' clocks are not the same.
        is_stable: whether the three windows agreed.
        window_medians_ms: median of every window, those that do not count too.
    """

    file: str
    runtime: str
    device: str
    providers: tuple[str, ...]
    clock: str
    run_ms: dict[str, float]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    host_p50_ms: float
    images_per_s: float
    ratio: dict[str, float]
    ratio_clock: str
    is_stable: bool
    window_medians_ms: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A runtime that was left out of ``all``, and why."""

    file: str
    runtime: str
    reason: str


@dataclasses.dataclass(frozen=True)
class FilesResult:
    """What runs of several models took.

    Attributes:
        batch_size: images in a run.
        image_size: their height and width.
        rounds: runs of each in a window.
        windows: windows that were run; the last three count.
        measured: one per model and runtime; the first is what the others are compared with.
        skipped: what does not run here.
    """

    batch_size: int
    image_size: int
    rounds: int
    windows: int
    measured: Sequence[Measured]
    skipped: Sequence[Skipped] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self)


def measure_files(settings: FileSettings) -> FilesResult:
    """Run models beside each other, on the same random images, until their times have settled.

    Raises:
        InputError: a model cannot be opened, the models take images of different sizes, or the images do not fit into
            memory.
        ApsError: a run fails.
    """
    with contextlib.ExitStack() as stack:
        sessions, skipped = _opened(settings, stack)
        size = _common_size(sessions, settings.image_size)
        shape = (settings.batch_size, sessions[0].input_spec.channels or 3, size, size)
        images = _random_images(shape, settings.seed)
        running = _that_run(sessions, images, settings, skipped)
        watches = [Stopwatch(session, images, settings.rounds) for session in running]
        windows = run_until_stable(
            watches, settings.rounds, warm_up=_WARM_UP_RUNS, max_windows=max(NUM_AGREEING, settings.max_windows)
        )
        counted = NUM_AGREEING * settings.rounds
        measured = [_measured(watch, watches[0], counted, settings.batch_size) for watch in watches]
    return FilesResult(settings.batch_size, size, settings.rounds, windows, measured, tuple(skipped))


def _random_images(shape: tuple[int, int, int, int], seed: int) -> npt.NDArray[np.float32]:
    try:
        return np.random.default_rng(seed).standard_normal(shape, np.float32)
    except (MemoryError, ValueError) as error:  # more than there is, or than any array can hold
        count, _, height, width = shape
        raise InputError(
            f"{count} images of {height}x{width} do not fit into the memory of this machine; give a smaller "
            "--batch-size or --image-size."
        ) from error


def _opened(settings: FileSettings, stack: contextlib.ExitStack) -> tuple[list[Session], list[Skipped]]:
    """Return the sessions, which the stack closes, and what cannot be opened here where all were asked for."""
    sessions: list[Session] = []
    skipped: list[Skipped] = []
    for file, runtime in settings.pairs():
        try:
            opened = open_session(file, runtime=runtime, device=settings.device, num_threads=settings.num_threads)
        except ApsError as error:
            if not settings.takes_all:
                raise
            skipped.append(Skipped(file, str(runtime), str(error)))
            continue
        sessions.append(stack.enter_context(opened))
    _check_every_file_runs(settings, [session.source for session in sessions], skipped)
    return sessions, skipped


def _that_run(
    sessions: Sequence[Session], images: npt.NDArray[np.float32], settings: FileSettings, skipped: list[Skipped]
) -> list[Session]:
    """Return the sessions whose first run works; the others are added to what is skipped where all were asked for."""
    running = []
    for session in sessions:
        try:
            session.run(images)
        except InputError:
            raise  # the images are at fault, everywhere
        except ApsError as error:
            if not settings.takes_all:
                raise
            skipped.append(Skipped(session.source, session.runtime, str(error)))
            continue
        running.append(session)
    _check_every_file_runs(settings, [session.source for session in running], skipped)
    return running


def _check_every_file_runs(settings: FileSettings, sources: Sequence[str], skipped: Sequence[Skipped]) -> None:
    for file in dict.fromkeys(file for file, _ in settings.pairs()):
        if file not in sources:
            reasons = "; ".join(f"{each.runtime}: {each.reason.rstrip('.')}" for each in skipped if each.file == file)
            raise InputError(f"no runtime of this machine runs {file} ({reasons}).")


def _measured(watch: Stopwatch, first: Stopwatch, counted: int, batch_size: int) -> Measured:
    session = watch.session
    times_ms = [1e3 * value for value in watch.seconds[-counted:]]
    run_ms = spread(times_ms)
    p50_ms, p90_ms, p99_ms = percentiles(times_ms)
    # What a GPU was busy cannot be held against how long a call on a CPU took: the calls are then compared as such.
    same = watch.clock == first.clock
    own, other = (watch.seconds, first.seconds) if same else (watch.host_s, first.host_s)
    return Measured(
        file=session.source,
        runtime=session.runtime,
        device=session.device,
        providers=session.providers,
        clock=watch.clock,
        run_ms=run_ms,
        p50_ms=p50_ms,
        p90_ms=p90_ms,
        p99_ms=p99_ms,
        host_p50_ms=1e3 * percentiles(watch.host_s[-counted:])[0],
        images_per_s=1e3 * batch_size / run_ms["median"],
        ratio=spread(ratios(own[-counted:], other[-counted:])),
        ratio_clock=watch.clock if same else "host",
        is_stable=watch.is_stable,
        window_medians_ms=tuple(1e3 * value for value in watch.window_medians_s),
    )


def _common_size(sessions: Sequence[Session], image_size: int | None) -> int:
    """Return the side of square images that every model takes.

    Raises:
        InputError: there is none, or nobody says.
    """
    sizes: dict[int, str] = {} if image_size is None else {image_size: "--image-size"}
    for session in sessions:
        spec, preprocessing = session.input_spec, session.metadata.preprocessing
        if spec.height is not None:
            sizes.setdefault(spec.height, session.source)
        elif image_size is None and preprocessing is not None:
            sizes.setdefault(preprocessing.image_size, session.source)
    if len(sizes) > 1:
        found = ", ".join(f"{size} ({source})" for size, source in sizes.items())
        raise InputError(f"the models take images of different sizes: {found}; compare models of one size.")
    if not sizes:
        raise InputError(f"{sessions[0].source} does not say how large its images are; give --image-size N.")
    return next(iter(sizes))
