"""WebDataset shards: tar files that hold samples, `KEY.jpg` beside `KEY.cls`, one after the other.

The format is that of the `webdataset` library (https://github.com/webdataset/webdataset, "The WebDataset Format"). The
library itself streams shards, in an order that cannot be taken up in the middle; here they are looked through once and
their images are read by position, so that shards are shuffled, shared among processes and resumed like any other
images, and give the same run. They must lie on a file system and must not be compressed.

Imports no torch: an ONNX file is evaluated on shards without it.
"""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.files import read_lines
from aps_deploy.training.sources import Member

_LOGGER = logging.getLogger(__name__)

CLASSES_FILE = "classes.txt"
_IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "bmp"})
_LABEL_SUFFIX = "cls"
_END_BYTES = 2 * tarfile.BLOCKSIZE
_READ_BYTES = 1 << 20


def find_shards(folder: Path) -> list[Path]:
    """Return the tar files in a folder, sorted by name."""
    return sorted(folder.glob("*.tar"))


def read_shards(shards: Sequence[Path]) -> tuple[list[Member], npt.NDArray[np.int64]]:
    """Return where the images of some shards lie, and their labels (N,) int64; nothing is decoded.

    Raises:
        InputError: a shard is damaged, cut off or compressed, or a sample has no image or no label.
    """
    members: list[Member] = []
    labels: list[int] = []
    for shard in shards:
        for member, label in _samples(shard):
            members.append(member)
            labels.append(label)
    if not members:
        raise InputError(
            f"{shards[0].parent} holds {len(shards)} shards without a sample; expected are KEY.jpg, KEY.cls."
        )
    return members, np.asarray(labels, np.int64)


def class_names_of(folder: Path, labels: npt.NDArray[np.int64]) -> list[str]:
    """Return the names of the classes: the lines of `classes.txt`, or else their numbers.

    Raises:
        InputError: a label has no name.
    """
    largest = int(labels.max())
    if not (folder / CLASSES_FILE).is_file():
        return [str(number) for number in range(largest + 1)]
    names = read_lines(folder / CLASSES_FILE, "one class name per line")
    if largest >= len(names):
        raise InputError(f"{folder / CLASSES_FILE} names {len(names)} classes, but the shards hold a label {largest}.")
    return names


def labels_for(
    folder: Path, numbers: npt.NDArray[np.int64], class_names: Sequence[str] | None, num_classes: int | None
) -> npt.NDArray[np.int64] | None:
    """Return the labels (N,) int64 of images of shards as positions among the classes of a network.

    Args:
        folder: Where `classes.txt` is, if there is one; its names decide where the network has names too.
        numbers: (N,) int64, the labels that the shards hold; without names on both sides they are the positions.
        class_names: The network's.
        num_classes: The network's. Where it has no names and `classes.txt` names another number of classes, no label
            can be told, and the result is None.

    Raises:
        InputError: a class is none of the network's.
    """
    named = class_names_of(folder, numbers) if (folder / CLASSES_FILE).is_file() else None
    if named is not None and class_names is not None:
        position = {name: index for index, name in enumerate(class_names)}
        unknown = [named[number] for number in np.unique(numbers).tolist() if named[number] not in position]
        if unknown:
            raise InputError(
                f"{folder / CLASSES_FILE} names {unknown[0]}, which is none of the model's {len(class_names)} classes; "
                "give the classes the model's names."
            )
        return np.asarray([position[named[number]] for number in numbers.tolist()], np.int64)
    if named is not None and num_classes not in (None, len(named)):
        _LOGGER.warning(
            "accuracy is not measured: the model has %d classes and no names for them, %s names %d classes",
            num_classes, folder / CLASSES_FILE, len(named),
        )  # fmt: skip
        return None
    count = num_classes if class_names is None else len(class_names)
    if count is not None and int(numbers.max()) >= count:
        raise InputError(
            f"the shards of {folder} hold a label {int(numbers.max())}, but the model has {count} classes, from 0 on; "
            f"name the classes of the shards in {folder / CLASSES_FILE}."
        )
    return numbers


def _samples(shard: Path) -> Iterator[tuple[Member, int]]:
    key: str | None = None
    image: Member | None = None
    label: int | None = None
    for name, member, content in _members(shard):
        found, _, suffix = name.rpartition("/")[2].partition(".")
        found, suffix = name[: len(name) - len(suffix) - 1] if suffix else name, suffix.lower()
        if key is not None and found != key:
            yield _complete(shard, key, image, label)
            image = label = None
        key = found
        if suffix in _IMAGE_SUFFIXES:
            image = member
        elif suffix == _LABEL_SUFFIX:
            label = _label(shard, name, content)
    if key is not None:
        yield _complete(shard, key, image, label)


def _members(shard: Path) -> Iterator[tuple[str, Member, bytes]]:
    """Yield every file of a shard: its name, its place and, of a label, its content."""
    try:
        with tarfile.open(shard, "r:") as archive:
            for entry in archive:
                if entry.isfile():
                    is_label = entry.name.lower().endswith("." + _LABEL_SUFFIX)
                    handle = archive.extractfile(entry) if is_label else None
                    place = Member(shard, entry.name, entry.offset_data, entry.size)
                    yield entry.name, place, b"" if handle is None else handle.read()
            end = archive.offset
        _check_end(shard, end)
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"shard {shard} cannot be read ({error}); accepted are whole tar files that are not compressed."
        ) from error


def _check_end(shard: Path, end: int) -> None:
    """Make sure that reading stopped at the end of the archive: tarfile takes any header it cannot read for it.

    The end is at least two blocks of zeros, and then zeros up to a whole record. An archive that `cat` put behind it is
    refused: readers of tar files stop before it, and its samples would be missing.

    Raises:
        InputError: the archive goes on there, or is cut off.
    """
    with shard.open("rb") as file:
        file.seek(end)
        if file.read(_END_BYTES) != bytes(_END_BYTES):
            raise InputError(
                f"shard {shard} is damaged or cut off at byte {end}: neither the header of a file nor the end of the "
                f"archive ({_END_BYTES} zero bytes) is there; write the shard anew."
            )
        while piece := file.read(_READ_BYTES):
            if piece.strip(b"\0"):
                raise InputError(
                    f"shard {shard} ends at byte {end}, but more than zeros follow: a header is damaged, or archives "
                    "were joined by cat; write the shard anew, or join archives by tar --concatenate."
                )


def _label(shard: Path, name: str, content: bytes) -> int:
    try:
        label = int(content.decode("ascii").strip())
    except ValueError:
        label = -1
    if label < 0:
        raise InputError(f"{shard}:{name} holds {content[:20]!r}; a label is the number of the class, from 0 on.")
    return label


def _complete(shard: Path, key: str, image: Member | None, label: int | None) -> tuple[Member, int]:
    if image is None or label is None:
        missing = "image" if image is None else f"{key}.{_LABEL_SUFFIX}"
        raise InputError(f"sample {key} of {shard} has no {missing}; expected are {key}.jpg (or .png) and {key}.cls.")
    return image, label
