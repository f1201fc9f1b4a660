"""Compiles the CPU kernels into one shared library beside their sources.

    python plugins/cpu/building.py        after a change of the C files; `pip install` does the same

Nothing but the standard library is imported: the build of the package runs this before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIBRARY = FOLDER / "libaps_cpu.so"

_FLAGS = (
    *("-std=c11", "-D_GNU_SOURCE", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra"),
    # A product and a sum are one operation only where the sources say fmaf: a compiler that fuses some of them rounds
    # the vector body of a loop otherwise than its rest, and pixels otherwise than their neighbours.
    "-ffp-contract=off",
    # Neither errno nor the processor's exception flags are read; with them, loops with rintf are not vectorised.
    *("-fno-math-errno", "-fno-trapping-math"),
)


class BuildError(Exception):
    """The library could not be built; the message says why."""


def sources() -> list[Path]:
    """Return the C files, sorted by name."""
    return sorted(path for path in FOLDER.iterdir() if path.suffix in (".c", ".h"))


def source_digest() -> str:
    """Return 16 hexadecimal digits that change with the C files."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def is_current() -> bool:
    """Return whether the library is there and was built from the C files as they are now."""
    try:
        return source_digest().encode() in LIBRARY.read_bytes()
    except OSError:
        return False


def build() -> Path:
    """Compile the library unless it is current, replacing an older one, and return its path.

    Raises:
        BuildError: the platform has no POSIX threads, there is no C compiler, or it fails.
    """
    if is_current():
        return LIBRARY
    if sys.platform == "win32":
        raise BuildError("the CPU kernels are not built on Windows")
    compiler = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        raise BuildError("no C compiler was found (cc, gcc or clang; or set CC)")
    files = [str(path) for path in sources() if path.suffix == ".c"]
    temporary = LIBRARY.with_suffix(f".{os.getpid()}.tmp")
    digest = f"-DAPS_SOURCE_DIGEST={source_digest()}"
    try:
        result = subprocess.run(
            [*compiler.split(), *_FLAGS, digest, "-o", str(temporary), *files, "-lm", "-ldl"],
            capture_output=True,
            text=True,
        )
        if result.returncode != 0:
            raise BuildError(f"{compiler} failed: {result.stderr.strip()[-2000:]}")
        os.replace(temporary, LIBRARY)
    except OSError as error:
        raise BuildError(f"{compiler} cannot be run or {FOLDER} cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return LIBRARY


if __name__ == "__main__":
    try:
        print(build())
    except BuildError as error:
        sys.exit(f"{error}.")
