"""Where an encoded image lies: in a file of its own, or inside a shard."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from aps_deploy.errors import InputError
from aps_deploy.preprocessing import decode_image, load_image


class Member(NamedTuple):
    """An image inside a tar file, which is never unpacked.

    Attributes:
        shard: The tar file.
        name: Name of the member.
        offset: First byte of its content in the tar file.
        size: Number of its bytes.
    """

    shard: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}:{self.name}"


Source = Path | Member


def load_source(source: Source) -> Image.Image:
    """Return the image, decoded, as RGB; see `load_image`.

    Raises:
        InputError: it is missing, truncated, or no image.
    """
    if not isinstance(source, Member):
        return load_image(source)
    try:
        with open(source.shard, "rb") as shard:
            shard.seek(source.offset)
            content = shard.read(source.size)
    except OSError as error:
        raise InputError(f"image {source} cannot be read ({error.strerror}); the shard is gone or damaged.") from error
    return decode_image(io.BytesIO(content), f"image {source}")


def too_many_unreadable(unreadable: Sequence[str], limit: int) -> InputError:
    """Return the error for more unreadable images than are to be skipped; without any to skip, the image's own."""
    if limit == 0 and unreadable:
        return InputError(unreadable[-1])
    example = f" One of them: {unreadable[-1]}" if unreadable else ""
    return InputError(
        f"more than {limit} images cannot be read, which --max-unreadable-images allows to skip; mend them, or "
        f"raise it.{example}"
    )
