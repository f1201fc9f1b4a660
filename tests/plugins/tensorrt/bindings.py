"""TensorRT's real Python bindings on a machine without TensorRT, in a process of their own.

The bindings are linked to TensorRT's libraries, of which they need nine functions before anything is built. Three
libraries with these functions, which do nothing, let the package be imported; its Python part, which reads the plugins
and drives them, is then the real one. Nothing can be built with it.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DISTRIBUTION = "tensorrt-cu13-bindings"

_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_FUNCTIONS = """
#include <stddef.h>
#define NOTHING(name) void *name(void) { return NULL; }
NOTHING(createInferBuilder_INTERNAL)
NOTHING(createInferRefitter_INTERNAL)
NOTHING(createInferRuntime_INTERNAL)
NOTHING(createNvOnnxParserRefitter_INTERNAL)
NOTHING(createNvOnnxParser_INTERNAL)
NOTHING(getBuilderPluginRegistry)
NOTHING(getPluginRegistry)
int getNvOnnxParserVersion(void) { return 0; }
int initLibNvInferPlugins(void) { return 1; }
"""
# The package `tensorrt` is these lines, in the wheel of that name.
_FRONT = {
    "__init__.py": "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n",
    "plugin/__init__.py": "from tensorrt_bindings.plugin import *\n",
}


def why_unavailable() -> str | None:
    """Return why the bindings cannot be loaded here, in words; None where they can."""
    if sys.platform != "linux":
        return "the stand-in for TensorRT's libraries is made for Linux"
    if shutil.which("gcc") is None:
        return "there is no C compiler (gcc) to make the stand-in for TensorRT's libraries"
    try:
        importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return f"TensorRT's Python bindings are not installed ({DISTRIBUTION})"
    return None


def make_importable(folder: Path) -> dict[str, str]:
    """Return the environment of a process that can import ``tensorrt``; what it needs is written to ``folder``."""
    reason = why_unavailable()
    if reason is not None:
        pytest.skip(reason)
    major = importlib.metadata.version(DISTRIBUTION).split(".")[0]
    source = folder / "functions.c"
    source.write_text(_FUNCTIONS)
    for library in _LIBRARIES:
        name = f"lib{library}.so.{major}"
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", str(source), "-o", str(folder / name)]
        subprocess.run(command, check=True)
    for name, text in _FRONT.items():
        path = folder / "packages" / "tensorrt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    checkout = Path(__file__).resolve().parents[3]
    paths = {"LD_LIBRARY_PATH": folder, "PYTHONPATH": f"{folder / 'packages'}{os.pathsep}{checkout}"}
    return {**os.environ, **{name: str(value) for name, value in paths.items()}}
