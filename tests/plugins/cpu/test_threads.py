"""The loop without anybody's OpenMP: in a process that has neither PyTorch nor a library that brings one."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import ctypes, sys
import numpy as np
from aps_deploy.plugins.cpu.library import Map, load

library = load()
try:
    ctypes.CDLL(None).GOMP_parallel
    sys.exit("there is an OpenMP runtime in this process")
except AttributeError:
    pass
x = np.random.default_rng(0).standard_normal((3, 5, 64, 32)).astype(np.float32)
filters = np.full((5, 1, 3, 3), 1 / 9, np.float32)
found = []
for num_threads in (1, 2, 7, 100):
    map_ = Map(x.ctypes.data, filters.ctypes.data, *x.shape, 3, 2)
    index, taken = np.full(3, -1), np.full((3, 5, 32, 16), np.nan, np.float32)
    assert library.aps_choose_on_threads(ctypes.byref(map_), 0, index.ctypes.data, num_threads) == 0
    assert library.aps_take_on_threads(ctypes.byref(map_), index.ctypes.data, taken.ctypes.data, num_threads) == 0
    found.append((index, taken))
for index, taken in found:
    assert np.array_equal(index, found[0][0]) and np.array_equal(taken, found[0][1])
    assert np.isfinite(taken).all()
print("torch" in sys.modules, "the same")
"""


def test_threads_of_its_own_compute_the_same() -> None:
    result = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True)
    assert result.stdout.strip() == "False the same", result.stderr
