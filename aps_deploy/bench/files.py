"""Models beside each other: each runs the same images once in every round, in every runtime that was asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.bench.timing import interleaved, percentiles, ratios, spread
from aps_deploy.errors import InputError
from aps_deploy.runtimes import open_session
from aps_deploy.runtimes.availability import RUNTIMES, resolve_runtime
from aps_deploy.runtimes.opening import file_kind
from aps_deploy.runtimes.session import Session

_WARM_UP_RUNS = 3


@dataclasses.dataclass(frozen=True)
class FileSettings:
    """What to run.

    Attributes:
        files: checkpoints, ONNX files and engines.
        against: the one whose time the others' are divided by; None takes the first.
        batch_size: images in a run.
        image_size: their height and width, where no file says.
        runtimes: by name; each file runs in those that read it. None: its own.
        device: ``cpu``, ``cuda`` or None: CUDA where it works.
        num_threads: threads of a run; None leaves the runtime's choice.
        rounds: runs of each.
        seed: of the random images.
    """

    files: tuple[str, ...]
    against: str | None = None
    batch_size: int = 1
    image_size: int | None = None
    runtimes: tuple[str, ...] = ()
    device: str | None = None
    num_threads: int | None = None
    rounds: int = 30
    seed: int = 0

    def pairs(self) -> list[tuple[str, str | None]]:
        """Return every file with every runtime that it runs in; the one compared against comes first.

        Raises:
            InputError: a file is of an unknown kind, a runtime does not exist, or none of them reads a file.
        """
        names = list(dict.fromkeys([*([] if self.against is None else [self.against]), *self.files]))
        wanted = [resolve_runtime(name) for name in dict.fromkeys(self.runtimes)]
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
    """One model in one runtime.

    Attributes:
        file: the model.
        runtime: the runtime.
        device: where it ran.
        run_ms: median, quartiles and extremes of a run, in milliseconds.
        p50_ms: as `p90_ms` and `p99_ms`: so many percent of the runs took at most so long.
        images_per_s: at the median.
        ratio: its time over that of the first model, spread over the rounds.
    """

    file: str
    runtime: str
    device: str
    run_ms: dict[str, float]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    images_per_s: float
    ratio: dict[str, float]


@dataclasses.dataclass(frozen=True)
class FilesResult:
    """What runs of several models took.

    Attributes:
        batch_size: images in a run.
        image_size: their height and width.
        rounds: runs of each.
        measured: one per model and runtime; the first is what the others are compared with.
    """

    batch_size: int
    image_size: int
    rounds: int
    measured: Sequence[Measured]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self)


def measure_files(settings: FileSettings) -> FilesResult:
    """Run models beside each other. Times are those of whole calls: images from, and answers in, the computer's memory.

    Raises:
        InputError: a model cannot be opened, or the models take images of different sizes.
        ApsError: a run fails.
    """
    with contextlib.ExitStack() as stack:
        sessions: list[Session] = []
        for file, runtime in settings.pairs():
            opened = open_session(file, runtime=runtime, device=settings.device, num_threads=settings.num_threads)
            sessions.append(stack.enter_context(opened))
        size = _common_size(sessions, settings.image_size)
        shape = (settings.batch_size, sessions[0].input_spec.channels or 3, size, size)
        images = np.random.default_rng(settings.seed).standard_normal(shape, np.float32)
        calls = {str(number): functools.partial(_run, session, images) for number, session in enumerate(sessions)}
        seconds = list(interleaved(calls, settings.rounds, warm_up=_WARM_UP_RUNS).values())
        measured = [
            _measured(session, values, seconds[0], settings.batch_size)
            for session, values in zip(sessions, seconds, strict=True)
        ]
    return FilesResult(settings.batch_size, size, settings.rounds, measured)


def _run(session: Session, images: npt.NDArray[np.float32]) -> object:
    return session.run(images)


def _measured(session: Session, seconds: list[float], first: list[float], batch_size: int) -> Measured:
    times_ms = [1e3 * value for value in seconds]
    run_ms = spread(times_ms)
    rate = 1e3 * batch_size / run_ms["median"]
    ratio = spread(ratios(seconds, first))
    return Measured(session.source, session.runtime, session.device, run_ms, *percentiles(times_ms), rate, ratio)


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
