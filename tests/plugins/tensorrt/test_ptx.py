"""What is read off a PTX text, and which texts are refused."""

from __future__ import annotations

import pytest

from aps_deploy.errors import ApsError
from aps_deploy.plugins.tensorrt.ptx import EntryPoint, check_entry, entry_point, renamed

PTX = """
.version 8.8
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry scale(
    .param .u64 .ptr .global .align 1 scale_param_0,
    .param .u32 scale_param_1,
    .param .u64 .ptr .global .align 1 scale_param_2
)
.reqntid 32, 4
{
    ld.param.b64 %rd1, [scale_param_0];
    // scale( is a name in this comment as well
    ret;
}
"""
TYPES = ("u64", "u32", "u64")


def test_the_entry_point() -> None:
    assert entry_point(PTX) == EntryPoint("scale", TYPES, 128, "sm_90a", 88)
    assert entry_point(PTX.replace(".reqntid 32, 4", "")).num_threads is None
    assert entry_point(PTX.replace("8.8", "12.0")).version == 120


def test_another_name_changes_nothing_else() -> None:
    text = renamed(PTX, "aps_scale_fp16")
    assert entry_point(text) == EntryPoint("aps_scale_fp16", TYPES, 128, "sm_90a", 88)
    assert text.replace("aps_scale_fp16(", "scale(") == PTX


def test_a_kernel_that_fits() -> None:
    assert check_entry(PTX, name="scale", parameters=TYPES, num_threads=128) == entry_point(PTX)


@pytest.mark.parametrize(
    ("parameters", "num_threads", "words"),
    [
        (TYPES[:2], 128, r"takes \(u64, u32, u64\), and TensorRT would hand scale \(u64, u32\); install the version"),
        ((*TYPES, "u64"), 128, r"would hand scale \(u64, u32, u64, u64\)"),
        (TYPES, 64, "demands blocks of 128 threads, not of 64"),
    ],
)
def test_a_kernel_that_does_not_fit(parameters: tuple[str, ...], num_threads: int, words: str) -> None:
    with pytest.raises(ApsError, match=words):
        check_entry(PTX, name="scale", parameters=parameters, num_threads=num_threads)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "this holds none"),
        (PTX + PTX.replace("scale", "shift"), "this holds scale, shift"),
        (PTX.replace(".target sm_90a", ""), "for one architecture"),
    ],
)
def test_a_text_that_is_no_kernel(text: str, words: str) -> None:
    with pytest.raises(ApsError, match=words):
        entry_point(text)
