"""The image and the shift that changed the answer most, kept so that anyone can run them again.

The pair was found in a batch; here its image runs alone, unshifted and shifted, in the file and in the reference, so
that a reader who has nothing but the file and these arrays gets these outputs. `docs/certificate.md` shows how.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.files import atomic_path
from aps_deploy.preprocessing import Preprocessing
from aps_deploy.runtimes.batching import ImageSource, Runner, run_batched
from aps_deploy.runtimes.session import INDICES, LOGITS, Outputs
from aps_deploy.verification.comparing import (
    Images,
    finite_or_none,
    finite_rows,
    identical_rows,
    largest_difference,
    roll,
)
from aps_deploy.verification.consistency import WorstPair
from aps_deploy.verification.pictures import picture_of
from aps_deploy.verification.shifts import Offset

_SHIFTED = "_shifted"
_REFERENCE = "reference_"
_TOP_CLASSES = 5


@dataclasses.dataclass(frozen=True)
class WorstCase:
    """One image, one shift, and what file and reference answer to both versions of the image, each run alone.

    Attributes:
        image: (3, H, W) float32, preprocessed.
        shift: (dy, dx) in pixels: ``numpy.roll(image, shift, axis=(1, 2))`` is the shifted image.
        outputs: the file's outputs for the image by name, each (1, ...), as ``logits`` (1, classes).
        shifted_outputs: the same for the shifted image.
        reference_logits: (1, classes) float32 for the image; None where no reference could be run.
        reference_shifted_logits: the same for the shifted image.
        about: plain JSON values: which file (name, sha256), runtime and device made the outputs.
    """

    image: npt.NDArray[np.float32]
    shift: Offset
    outputs: Outputs
    shifted_outputs: Outputs
    reference_logits: npt.NDArray[np.float32] | None
    reference_shifted_logits: npt.NDArray[np.float32] | None
    about: dict[str, Any]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the case as a NumPy archive, atomically, and return its path.

        Raises:
            InputError: the folder does not exist.
            ApsError: the disk is full or the folder cannot be written.
        """
        arrays: dict[str, Any] = {
            "image": self.image,
            "shift": np.asarray(self.shift, np.int64),
            **self.outputs,
            **{name + _SHIFTED: value for name, value in self.shifted_outputs.items()},
            "about": np.asarray(json.dumps(self.about, ensure_ascii=False)),
        }
        if self.reference_logits is not None and self.reference_shifted_logits is not None:
            arrays[_REFERENCE + LOGITS] = self.reference_logits
            arrays[_REFERENCE + LOGITS + _SHIFTED] = self.reference_shifted_logits
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **arrays)
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WorstCase:
        """Return the case in a file that `save` wrote.

        Raises:
            InputError: the file is missing or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            about = json.loads(str(arrays.pop("about")))
            image, shift = arrays.pop("image"), arrays.pop("shift")
            reference = [arrays.pop(_REFERENCE + LOGITS + suffix, None) for suffix in ("", _SHIFTED)]
            names = [name for name in arrays if not name.endswith(_SHIFTED)]
            outputs = {name: arrays[name] for name in names}
            shifted = {name: arrays[name + _SHIFTED] for name in names}
            return cls(image, (int(shift[0]), int(shift[1])), outputs, shifted, reference[0], reference[1], about)
        except FileNotFoundError:
            raise InputError(f"{path} does not exist.") from None
        except (OSError, ValueError, TypeError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(
                f"{path} is not a worst case that `aps-deploy verify --worst-case` wrote ({error})."
            ) from error

    def to_dict(self, preprocessing: Preprocessing | None, class_names: tuple[str, ...] | None) -> dict[str, Any]:
        """Return what a report tells of the case, as plain JSON values."""
        before, after = self.outputs[LOGITS], self.shifted_outputs[LOGITS]
        change = _change(before, after)
        reference = None
        if self.reference_logits is not None and self.reference_shifted_logits is not None:
            reference = _change(self.reference_logits, self.reference_shifted_logits)
        unchanged = change["bit_identical"] and (reference is None or reference["bit_identical"])
        return {
            **change,
            "reference": reference,
            "top": _top(before[0], after[0], class_names),
            # A picture of a case in which nothing happened would only make the document larger.
            "picture_png": None if unchanged else picture_of(self.image, preprocessing),
        }


def make_worst_case(
    session: Runner, reference: Runner | None, images: ImageSource, pair: WorstPair, about: dict[str, Any]
) -> WorstCase:
    """Return the worst case of ``pair``, its image run alone in both runners.

    Args:
        session: runs the file.
        reference: runs the reference; None where there is none that can be run.
        images: (N, 3, H, W) float32, preprocessed.
        pair: which of them, under which shift.
        about: see `WorstCase`.
    """
    image = np.ascontiguousarray(images[pair.image : pair.image + 1][0])
    shift = (pair.dy, pair.dx)
    both = (image[None], roll(image[None], shift))
    outputs, shifted = (_known_outputs(session, each) for each in both)
    answers = [None if reference is None else np.array(reference.run(each)[LOGITS]) for each in both]
    return WorstCase(image, shift, outputs, shifted, answers[0], answers[1], about)


def _known_outputs(session: Runner, image: Images) -> Outputs:
    # A file of another tool may have outputs of any name.
    outputs = run_batched(session, image, batch_size=1)
    return {name: outputs[name] for name in (LOGITS, INDICES) if name in outputs}


def _change(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> dict[str, Any]:
    usable = bool(finite_rows(before, after)[0])
    return {
        "changes_class": not usable or bool(before[0].argmax() != after[0].argmax()),
        "bit_identical": usable and bool(identical_rows(before, after)[0]),
        "max_logit_change": finite_or_none(float(largest_difference(before, after)[0])),
    }


def _top(before: npt.NDArray[Any], after: npt.NDArray[Any], names: tuple[str, ...] | None) -> list[dict[str, Any]]:
    """Return the classes with the largest logits of either version, the unshifted one's first."""
    order = [int(index) for logits in (before, after) for index in np.argsort(-logits, kind="stable")[:_TOP_CLASSES]]
    return [
        {
            "class": index,
            "name": None if names is None or index >= len(names) else names[index],
            "logit": finite_or_none(float(before[index])),
            "logit_shifted": finite_or_none(float(after[index])),
        }
        for index in dict.fromkeys(order)
    ]
