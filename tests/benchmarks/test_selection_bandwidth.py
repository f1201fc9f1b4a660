"""What can be said of these measurements without a GPU: what they count, and that they refuse to run without one."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch

from benchmarks import selection_bandwidth
from benchmarks.gpu import bandwidth, identity
from benchmarks.gpu.result import ROW_KEYS


def test_maps_are_as_large_as_the_bar_asks() -> None:
    for setting in bandwidth.settings():
        num_values = torch.empty(setting.shape, device="meta").numel()
        assert num_values * setting.dtype.itemsize >= bandwidth.SMALLEST_BYTES
        assert setting.shape[2] % setting.stride == 0 and setting.shape[3] % setting.stride == 0
    names = [str(setting) for setting in bandwidth.settings()]
    assert len(set(names)) == len(names)


def test_the_map_is_counted_once_and_its_component_twice() -> None:
    assert bandwidth.counted_bytes(1600, 2) == 1600 + 400 + 400
    assert bandwidth.counted_bytes(1600, 4) == 1600 + 100 + 100


def test_rows_of_logits_count_as_identical_by_their_bits() -> None:
    still = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    moved = [still.clone(), torch.tensor([[1.0, 2.0], [3.0, 4.5]])]
    assert identity.compared(still, moved) == {"identical": 3, "of": 4, "largest_difference": 0.5}


def test_a_difference_that_is_no_number_is_not_lost_among_others() -> None:
    still = torch.tensor([[1.0, 2.0]])
    moved = [still.clone(), torch.tensor([[1.0, float("nan")]]), torch.tensor([[1.0, 3.0]])]
    found = identity.compared(still, moved)
    assert found["identical"] == 1 and math.isnan(found["largest_difference"])


def test_every_row_is_in_a_table_and_what_failed_says_why() -> None:
    spread = {"median": 0.8, "lower_quartile": 0.79, "upper_quartile": 0.81}
    rows: dict[str, dict[str, Any]] = {
        "bandwidth": {
            "setting": "1x2x4x4, float32, stride 2",
            "copy_gb_per_s": 2000.0,
            "select_gb_per_s": 1600.0,
            "of_copy": {**spread, "at_least": 0.7, "met": True},
        },
        "bits": {
            "dtype": "float16",
            "deterministic": True,
            "benchmark": False,
            "identical": 31,
            "of": 32,
            "largest_difference": 0.1,
        },
        "compiled": {
            "setting": "resnet18_aps3:224:64",
            "dtype": "float32",
            "seconds": {"lpf": {"median": 0.02}},
            "aps/lpf": {**spread, "at_most": 1.1, "met": True},
        },
    }
    names = {"bandwidth": "1x2x4x4, float32, stride 2", "bits": "float16, deterministic"}
    for part in selection_bandwidth.PARTS:
        key = {name: rows[part][name] for name in ("setting", "dtype") if name in rows[part]}
        failed = {**key, "failed": "no engine"}
        table = selection_bandwidth.table_of(part, [rows[part], failed])
        cells = [list(column.cells) for column in table.columns]
        assert cells[0][0] == names.get(part, "resnet18_aps3:224:64, float32")
        assert table.row_count == 2 and cells[1][1] == "no engine"


def test_entries_are_told_apart_by_the_fields_that_a_result_joins_by() -> None:
    for part, count in (("bandwidth", 50), ("bits", 30), ("compiled", 3)):
        keys = [key for key, _ in selection_bandwidth.entries(part, 1, 1, 1)]
        assert len(keys) == len({tuple(key.values()) for key in keys}) == count
        assert all(tuple(key) == ROW_KEYS[part] for key in keys)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_one_sentence_says_so() -> None:
    command = [sys.executable, "-m", "benchmarks.selection_bandwidth"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == "selection_bandwidth: nothing is measured, because torch finds no CUDA device here.\n"
