"""Files that are either whole or absent: atomic writes, hashes, JSON."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aps_deploy.errors import ApsError, InputError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed to disk and renamed to ``path``.

    Nothing is ever left under the final name that is not whole: on any error the temporary file is removed and an
    older file of that name stays as it was.

    Raises:
        InputError: the folder of ``path`` does not exist, is a file, or ``path`` is a folder.
        ApsError: the disk is full or the folder cannot be written.
    """
    import tempfile  # and with it random and shutil: only those who write wait for them

    target = Path(path)
    if target.is_dir():
        raise InputError(f"cannot write {target}: it is a folder; give the name of a file in it.")
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: the folder {target.parent} does not exist; create it first.")
    temporary: Path | None = None
    try:
        # The suffix stays last: numpy, matplotlib and onnx choose a format by it.
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _flush_to_disk(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ApsError(
                f"cannot write {target}: the disk is full; free some space and run the command again."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ApsError(
                f"cannot write {target}: no permission to write in {target.parent}; choose another output."
            ) from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def leftovers(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the temporary files of `atomic_path` in a folder, for files of these names: a killed process leaves one.

    Args:
        folder: it exists.
        names: what was to be written there; files of other names are nobody's leftovers.
    """
    stems = [(re.escape(Path(name).stem), re.escape(Path(name).suffix)) for name in names]
    # Eight characters are mkstemp's.
    wanted = re.compile("|".join(rf"\.{stem}-[a-z0-9_]{{8}}{suffix}" for stem, suffix in stems))
    return [path for path in folder.iterdir() if wanted.fullmatch(path.name)]


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb+") as handle:
        os.fsync(handle.fileno())


def _umask() -> int:
    # The umask can only be read by setting it; mkstemp's 0600 would surprise whoever shares the folder.
    current = os.umask(0)
    os.umask(current)
    return current


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_json(path: str | os.PathLike[str], document: Any) -> None:
    """Write ``document`` as indented UTF-8 JSON, atomically; NaN and infinity are refused (not JSON)."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, atomically; see `atomic_path` for the errors."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the JSON document in ``path``.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (ValueError, RecursionError) as error:
        # Not only its syntax: bytes that are no UTF-8, numbers of 5,000 digits, 10,000 brackets.
        raise InputError(f"{path} is not a JSON file ({error}).") from error


def read_lines(path: Path, wanted: str) -> list[str]:
    """Return the lines of a text file that are not empty, without the blanks around them.

    Raises:
        InputError: the file cannot be read; the message says what is ``wanted``.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a text file with {wanted}.") from None
