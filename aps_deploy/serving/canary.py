"""The canary: every so often a stored image goes through the live endpoint as circularly shifted copies.

The copies take the way of every request, through the model's queue and its batches, several in flight at once, so that
they share runs with each other and with real traffic. They stand behind all requests and give up their place to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from aps_deploy.errors import ApsError
from aps_deploy.preprocessing import load_image
from aps_deploy.runtimes.session import LOGITS
from aps_deploy.serving.canary_image import Subject, subject_of
from aps_deploy.serving.canary_record import CanaryRecord, Promise
from aps_deploy.serving.errors import UnavailableError
from aps_deploy.serving.model import ServedModel
from aps_deploy.serving.registry import Registry
from aps_deploy.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

Offset = tuple[int, int]

NUM_SHIFTS = 8
"""Shifted copies of one run, beside the unshifted image."""

MAX_IN_FLIGHT = 4
"""Copies that wait or run at once: no more images than that are added to a request's run."""

_PATIENCE_S = 10.0
"""How long a copy may wait in the queue."""

_LONGEST_RUN_S = 60.0
"""After so long a model's canary is given up, and the next model's turn comes."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One shifted copy's answer beside the unshifted image's.

    Attributes:
        shift: (dy, dx) in pixels.
        classes: best class of the unshifted image and of the copy; of the first row where a file's batch is fixed.
        agrees: whether the best class is the same, and every logit of both is finite.
        is_identical: whether all bits of the logits are the same, and finite.
        max_logit_change: largest absolute change of a logit; infinite where one is not finite.
    """

    shift: Offset
    classes: tuple[int, int]
    agrees: bool
    is_identical: bool
    max_logit_change: float

    def keeps(self, promise: Promise) -> bool:
        """Return whether the promise was kept."""
        return {"bits": self.is_identical, "class": self.agrees, "nothing": True}[promise]


def compare(shift: Offset, unshifted: npt.NDArray[Any], shifted: npt.NDArray[Any]) -> Finding:
    """Return what a shift did to the logits, both of shape (rows, classes)."""
    before, after = (np.atleast_2d(logits.astype(np.float64)) for logits in (unshifted, shifted))
    finite = bool(np.isfinite(before).all() and np.isfinite(after).all())
    best = before.argmax(axis=-1), after.argmax(axis=-1)
    change = float(np.abs(before - after).max()) if finite else math.inf
    return Finding(
        shift,
        (int(best[0].flat[0]), int(best[1].flat[0])),
        finite and bool((best[0] == best[1]).all()),
        finite and unshifted.tobytes() == shifted.tobytes(),
        change,
    )


class Canary:
    """Shifts images through the models of a server.

    Args:
        registry: the models.
        interval_s: pause between two rounds through all of them.
        picture: the image; None for each model's own, or a packaged one.
        seed: of the shifts; None draws others after every start, so that many servers together try many.
    """

    def __init__(
        self, registry: Registry, interval_s: float, picture: Image.Image | None = None, *, seed: int | None = None
    ) -> None:
        self._registry = registry
        self._interval_s = interval_s
        self._picture = picture
        self._generator = np.random.default_rng(seed)
        self._subjects: weakref.WeakKeyDictionary[ServedModel, Subject | None] = weakref.WeakKeyDictionary()

    async def watch(self) -> None:
        """Go round all models for ever."""
        while True:
            for model in self._registry.models():
                try:
                    await self.run(model)
                except Exception:  # a bug; the canary goes on, and the server in any case
                    logger.exception("the canary broke", extra={"fields": _named(model)})
            await asyncio.sleep(self._interval_s)

    async def run(self, model: ServedModel) -> None:
        """Shift one model's image through it once, and write down what came of it."""
        record = model.canary
        if record is None:
            return
        if model not in self._subjects:
            self._subjects[model] = await self._watched_from_now_on(model, record)
        subject = self._subjects[model]
        if subject is None:
            return
        shifts = self._draw(subject)
        findings, error = list[Finding](), None
        try:
            async with asyncio.timeout(_LONGEST_RUN_S):
                unshifted, *shifted = await _answers(model, subject, [(0, 0), *shifts])
            findings = [compare(shift, unshifted, logits) for shift, logits in zip(shifts, shifted, strict=True)]
        except (UnavailableError, TimeoutError):
            record.num_skipped += 1
            return
        except ApsError as failure:
            error = str(failure)
        _write_down(model, record, findings, error)

    async def _watched_from_now_on(self, model: ServedModel, record: CanaryRecord) -> Subject | None:
        try:
            subject = await asyncio.to_thread(subject_of, model, self._picture)
            why = "it takes no RGB images"
            if subject is not None:
                model.engine.check_image_size(model.signature.input(subject.input_name), subject.image.shape)
        except ApsError as error:
            subject, why = None, str(error)
        if subject is None:
            logger.warning("no canary watches the model: %s", why, extra={"fields": _named(model)})
            return None
        record.promise = subject.promise
        size = list(subject.image.shape[2:])
        fields = {**_named(model), "promise": subject.promise, "image_size": size}
        logger.info("a canary watches the model", extra={"fields": fields})
        return subject

    def _draw(self, subject: Subject) -> list[Offset]:
        """Return shifts drawn anew from all that the model is held to, without the one by nothing."""
        height, width = subject.image.shape[2:]
        columns = -(-width // subject.step)
        population = -(-height // subject.step) * columns - 1
        drawn = 1 + self._generator.choice(population, size=min(NUM_SHIFTS, population), replace=False)
        return [(subject.step * (int(flat) // columns), subject.step * (int(flat) % columns)) for flat in drawn]


async def _answers(model: ServedModel, subject: Subject, shifts: Sequence[Offset]) -> list[npt.NDArray[Any]]:
    """Return the logits of every shifted copy.

    Raises:
        UnavailableError: the queue was full, or a copy waited too long.
        ApsError: the model failed.
    """
    outputs = list(model.signature.outputs)
    # A file of another tool calls its first output what it likes.
    position = outputs.index(LOGITS) if LOGITS in outputs else 0
    places = asyncio.Semaphore(MAX_IN_FLIGHT)

    async def ask(shift: Offset) -> npt.NDArray[Any]:
        async with places:
            copy = np.roll(subject.image, shift, axis=(2, 3))
            deadline_ns = time.monotonic_ns() + int(_PATIENCE_S * 1e9)
            answer = await model.submit({subject.input_name: copy}, deadline_ns=deadline_ns, is_background=True)
            return answer[position]

    tasks = [asyncio.create_task(ask(shift)) for shift in shifts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:  # where one was refused the others give up their places
            task.cancel()


def _write_down(model: ServedModel, record: CanaryRecord, findings: Sequence[Finding], error: str | None) -> None:
    """Count a run, and log it in one line where it failed, or is the first good one after a failure."""
    broken = [finding for finding in findings if not finding.keeps(record.promise)]
    count = max(1, len(findings))
    record.num_runs += 1
    record.last_run_s = time.time()
    record.consistency = sum(finding.agrees for finding in findings) / count
    record.bit_identity = sum(finding.is_identical for finding in findings) / count
    failed = bool(broken) or (error is not None and record.promise != "nothing")
    fields: dict[str, Any] = {**_named(model), "promise": record.promise}
    if error is not None:
        fields["error"] = error
    if broken:
        first = broken[0]
        change = first.max_logit_change
        fields |= {"shift": list(first.shift), "classes": list(first.classes), "broken_shifts": len(broken)}
        fields |= {"num_shifts": len(findings), "max_logit_change": change if math.isfinite(change) else None}
    if failed:
        record.num_failures += 1
        logger.error("the canary failed", extra={"fields": fields})
    elif error is not None:
        logger.warning("the canary had no answer", extra={"fields": fields})
    elif record.has_failed:
        logger.info("the canary passes again", extra={"fields": fields})
    record.has_failed = failed


def _named(model: ServedModel) -> dict[str, Any]:
    return {"model": model.name, "version": model.version}


def canary_picture(settings: ServeSettings) -> Image.Image | None:
    """Return the image the settings name; None where they name none.

    Raises:
        InputError: it cannot be read.
    """
    return None if settings.canary_image is None else load_image(settings.canary_image)


@contextlib.asynccontextmanager
async def watched(registry: Registry, settings: ServeSettings, picture: Image.Image | None) -> AsyncIterator[None]:
    """Let a canary watch the models inside the ``with``, where the settings want one."""
    if settings.canary_s is None:
        yield
        return
    task = asyncio.create_task(Canary(registry, settings.canary_s, picture).watch(), name="canary")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
