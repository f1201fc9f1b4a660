"""A reference's answers in a file, so that another machine can verify without the checkpoint.

Kept are, for every image by its hash: the logits, which components the reference chose, by what margin, and its
scores; of the reference: its name, its hash and what it promises. All of it comes from the reference's own choices. A
file's choices cannot be forced upon saved answers, so images on which they differ are judged by the margins and their
logits are not compared.
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

from aps_deploy.errors import ApsError, InputError
from aps_deploy.files import atomic_path, sha256_of
from aps_deploy.preprocessing import Preprocessing
from aps_deploy.runtimes.batching import ImageSource
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.verification.comparing import Progress
from aps_deploy.verification.digests import ImagesDigest
from aps_deploy.verification.references.base import Kind, Reference, ReferenceTrace
from aps_deploy.verification.versions import package_versions

_FORMAT = "aps-deploy saved reference"
_VERSION = 1
_DIGEST_BYTES = 32
_HASHES = "image_sha256"
_DAMAGE = (
    OSError, ValueError, TypeError, AttributeError, LookupError, EOFError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_TRACE = ("logits", "chosen", "margins", "scores")


class SavedReference(Reference):
    """A reference whose answers were saved; it has answers for the images it was saved with and for no others.

    Args:
        path: the file they came from.
        about: what `save_reference` wrote of the reference.
        hashes: (M, 32) uint8, SHA-256 of each image.
        trace: the answers for these images.
    """

    kind: Kind = "saved"

    def __init__(
        self, path: str | os.PathLike[str], about: dict[str, Any], hashes: npt.NDArray[np.uint8], trace: ReferenceTrace
    ) -> None:
        promised = ModelMetadata.from_dict(about["promised"])
        super().__init__(str(about["name"]), about["sha256"], promised, tuple(about["selection_layers"]))
        self.path = Path(path)
        self._about, self._hashes, self._trace = about, hashes, trace

    @property
    def num_classes(self) -> int:
        """Number of saved logits."""
        return int(self._trace.logits.shape[1])

    @property
    def family(self) -> str | None:
        """The family that was saved."""
        return None if self._about["family"] is None else str(self._about["family"])

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The one that the saved images were made with."""
        document = self._about["preprocessing"]
        return None if document is None else Preprocessing.from_dict(document)

    def told(self) -> dict[str, Any]:
        """Return what a certificate tells of the file of saved answers."""
        about = self._about
        return {
            "name": self.path.name,
            "sha256": sha256_of(self.path),
            "kind": about["kind"],
            "num_images": len(self._hashes),
            "versions": about["versions"],
        }

    def for_images(self, digest: ImagesDigest, shape: tuple[int, ...]) -> SavedReference:
        """Return the answers for images of these hashes, in their order.

        Args:
            digest: with a hash of each image.
            shape: (N, 3, H, W) of the images.

        Raises:
            InputError: an image is not among those that were saved.
        """
        size = (self._about["height"], self._about["width"])
        if tuple(shape[2:]) != size:
            raise InputError(
                f"{self.path} holds answers for images of {size[0]}x{size[1]}, these are {shape[2]}x{shape[3]}; "
                "prepare them alike, or save the reference again."
            )
        position = {row.tobytes(): number for number, row in enumerate(self._hashes)}
        rows = [position.get(each, -1) for each in digest.each]
        missing = rows.count(-1)
        if missing:
            raise InputError(
                f"{missing} of the {len(rows)} images are not among the {len(self._hashes)} that {self.path} holds "
                f"answers for; give the same folder, --images {len(self._hashes)} and --seed {self._about['seed']}. If "
                f"they are the same files, they are prepared or decoded otherwise here{self._pillow_words()}."
            )
        fields = {field.name: getattr(self._trace, field.name)[rows] for field in dataclasses.fields(ReferenceTrace)}
        return SavedReference(self.path, self._about, self._hashes[rows], ReferenceTrace(**fields))

    def _pillow_words(self) -> str:
        there, here = self._about["versions"].get("pillow"), package_versions().get("pillow")
        return f" (Pillow {here}, {there} there)" if there != here else ""

    def trace(
        self,
        images: ImageSource,
        forced: npt.NDArray[np.int64] | None = None,
        *,
        batch_size: int = 64,
        progress: Progress | None = None,
    ) -> ReferenceTrace:
        """Return the saved answers, which must be of exactly these images; ``forced`` must be None."""
        if forced is not None or len(images) != len(self._trace.logits):
            raise ApsError(f"the saved reference {self.path} has no answers for these images and choices.")
        return self._trace

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SavedReference:
        """Return the reference in a file that `save_reference` wrote.

        Raises:
            InputError: the file is missing, is damaged or holds something else.
        """
        advice = "write one with `aps-deploy verify --reference CKPT --data DIR --save-reference FILE.npz`"
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            about = json.loads(str(arrays["about"]))
            if about["format"] != _FORMAT:
                raise ValueError("it is another kind of archive")
            if about["version"] != _VERSION:
                raise InputError(
                    f"{path} is a saved reference of version {about['version']}, this program reads {_VERSION}; "
                    "save it again."
                )
            trace = ReferenceTrace(arrays["logits"], arrays["chosen"], *(arrays[name] for name in _TRACE[1:]))
            _check_shapes(arrays[_HASHES], trace, len(about["selection_layers"]))
            return cls(path, about, arrays[_HASHES], trace)
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; {advice}.") from None
        except _DAMAGE as error:
            raise InputError(f"{path} is not a saved reference ({error}); {advice}.") from error


def save_reference(
    path: str | os.PathLike[str],
    reference: Reference,
    trace: ReferenceTrace,
    digest: ImagesDigest,
    *,
    shape: tuple[int, ...],
    preprocessing: Preprocessing | None,
    seed: int,
) -> Path:
    """Write a reference's answers as a NumPy archive without pickled objects, atomically, and return its path.

    Args:
        path: file to write, ending in ``.npz``.
        reference: whose answers they are.
        trace: the answers by the reference's own choices, one row per image.
        digest: with a hash of each image.
        shape: (N, 3, H, W) of the images.
        preprocessing: what the images were made with; None where arrays were given.
        seed: that chose the images.

    Raises:
        InputError: the folder does not exist.
        ApsError: the disk is full or the folder cannot be written.
    """
    about = {
        "format": _FORMAT,
        "version": _VERSION,
        "kind": reference.kind,
        "name": Path(reference.name).name,
        "sha256": reference.sha256,
        "family": reference.family,
        "selection_layers": list(reference.selection_layers),
        "promised": reference.promised.to_dict(),
        "preprocessing": None if preprocessing is None else preprocessing.to_dict(),
        "data_sha256": digest.sha256,
        "height": shape[2],
        "width": shape[3],
        "seed": seed,
        "versions": package_versions(),
    }
    hashes = np.frombuffer(b"".join(digest.each), np.uint8).reshape(-1, _DIGEST_BYTES)
    arrays: dict[str, Any] = {name: getattr(trace, name) for name in _TRACE}
    arrays["about"] = np.asarray(json.dumps(about, ensure_ascii=False, allow_nan=False))
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **{_HASHES: hashes, **arrays})
    return Path(path)


def _check_shapes(hashes: npt.NDArray[Any], trace: ReferenceTrace, num_layers: int) -> None:
    count = len(hashes)
    shapes = {
        "image_sha256": (hashes, np.uint8, (count, _DIGEST_BYTES)),
        "logits": (trace.logits, np.float32, (count, *trace.logits.shape[1:2])),
        "chosen": (trace.chosen, np.int64, (count, num_layers)),
        "margins": (trace.margins, np.float64, (count, num_layers)),
        "scores": (trace.scores, np.float64, (count, num_layers, *trace.scores.shape[2:3])),
    }
    for name, (array, dtype, shape) in shapes.items():
        if array.dtype != dtype or array.shape != shape or (name == "logits" and array.ndim != 2):
            raise ValueError(f"its array {name} is {array.dtype} of shape {array.shape}")
