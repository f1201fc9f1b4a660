"""The compiled CPU kernels: where they are, why they are not used, and their functions.

They are used where they were built from the sources at hand and the processor has the instructions that make them fast
(AVX2 and FMA, or 64-bit ARM). ``APS_DEPLOY_NATIVE=0`` in the environment turns them off; everything then computes the
same with PyTorch's or the file's standard operators. Needs neither torch nor onnxruntime.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

from aps_deploy.plugins.cpu.building import LIBRARY, is_current
from aps_deploy.plugins.switch import are_switched_off

SWITCH = "APS_DEPLOY_NATIVE"

# What sessions that use them name among what computes.
KERNELS = "aps-deploy CPU kernels"

# In the order of `enum aps_criterion`.
CRITERIA = ("l2", "l1", "l2_min", "l1_min")


class Map(ctypes.Structure):
    """``aps_map`` of polyphase.h: addresses and sizes, which must stay valid during the call."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("filter", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("filter_size", ctypes.c_int64),
        ("stride", ctypes.c_int64),
    )


@functools.cache
def load() -> ctypes.CDLL | None:
    """Return the library with the types of its functions declared, or None where it cannot be used here."""
    return _loaded()[0]


def why_unavailable() -> str | None:
    """Return why the kernels cannot be used here, in words; None where they can."""
    return _loaded()[1]


def library_path() -> Path | None:
    """Return the file for ONNX Runtime's ``register_custom_ops_library``; None where kernels are not to be used."""
    return LIBRARY if is_used() else None


def is_used() -> bool:
    """Return whether the kernels are there and not switched off."""
    return not are_switched_off() and load() is not None


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, str | None]:
    if os.environ.get(SWITCH) == "0":
        return None, f"{SWITCH}=0 turns them off"
    if not LIBRARY.is_file():
        return None, "the package was installed without them (no C compiler, or run from a source tree)"
    if not is_current():
        return None, "their sources have changed since they were built; run python plugins/cpu/building.py"
    try:
        library = ctypes.CDLL(os.fspath(LIBRARY))
    except OSError as error:
        return None, f"the library does not load ({error})"
    if not library.aps_is_fast():
        return None, "this processor lacks AVX2 and FMA, without which they are slow"
    addresses = (ctypes.POINTER(Map), ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    library.aps_take_on_threads.argtypes = addresses
    library.aps_put_on_threads.argtypes = (ctypes.POINTER(Map), *[ctypes.c_void_p] * 3, ctypes.c_int)
    sizes = (ctypes.c_int64,) * 3
    library.aps_pool_on_threads.argtypes = (ctypes.c_void_p, *sizes, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    library.aps_spread_on_threads.argtypes = (ctypes.c_void_p, ctypes.c_void_p, *sizes, ctypes.c_void_p, ctypes.c_int)
    library.aps_choose_on_threads.argtypes = (ctypes.POINTER(Map), ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    return library, None
