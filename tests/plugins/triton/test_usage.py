from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from aps_deploy.plugins.switch import without_kernels
from aps_deploy.plugins.triton import usage
from aps_deploy.polyphase import polyphase_select

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def _in_a_process(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return result.stdout.strip()


@needs_triton
def test_the_switch_turns_them_off() -> None:
    code = "from aps_deploy.plugins.triton import usage as u; print(u.is_used(), u.why_unavailable())"
    assert _in_a_process(code, APS_DEPLOY_TRITON="0") == "False APS_DEPLOY_TRITON=0 turns them off"
    assert _in_a_process(code) == "True None"


@needs_triton
def test_a_block_without_them() -> None:
    assert usage.is_used()
    with without_kernels():
        assert not usage.is_used()
        assert usage.kernels_on(torch.device("cpu")) is None
    assert usage.is_used()


def test_on_a_cpu_nothing_imports_triton() -> None:
    code = """
import sys, torch
from aps_deploy.polyphase import polyphase_select
x = torch.randn(2, 3, 4, 4, requires_grad=True)
polyphase_select(x)[0].sum().backward()
print([name for name in sys.modules if name == "triton" or name.startswith("aps_deploy.plugins.triton.")])
"""
    assert _in_a_process(code) == "['aps_deploy.plugins.triton.usage']"


@pytest.mark.parametrize(
    "name", ["polyphase_index", "polyphase_take", "polyphase_put", "blurred_index", "blurred_take"]
)
def test_the_ops_have_an_implementation_of_their_own_on_gpus(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"aps::{name}", "CUDA")


@pytest.mark.parametrize(
    ("shape", "dtype", "stride", "fits"),
    [
        ((2, 3, 8, 8), torch.float32, 2, True),
        ((2, 3, 8, 8), torch.bfloat16, 4, True),
        ((2, 3, 8, 8), torch.float64, 2, False),
        ((2, 3, 10, 10), torch.float32, 5, False),
        ((65535, 3, 2, 2), torch.float16, 2, True),
        ((65536, 3, 2, 2), torch.float16, 2, False),
        ((1, 512, 2048, 2048), torch.float16, 2, False),
        ((1, 511, 2048, 2048), torch.float16, 2, True),
    ],
)
def test_what_fits(shape: tuple[int, ...], dtype: torch.dtype, stride: int, fits: bool) -> None:
    x = torch.empty(shape, dtype=dtype, device="meta")
    assert usage.fits(x, stride, *shape[2:]) is fits


def test_the_compiler_can_trace_the_question() -> None:
    def ask(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if usage.fits(x, 2, x.shape[2], x.shape[3]) else x - 1

    compiled = torch.compile(ask, backend="eager", fullgraph=True)
    assert float(compiled(torch.zeros(1, 1, 2, 2)).sum()) == 4
    assert float(compiled(torch.zeros(1, 1, 2, 2, dtype=torch.float64)).sum()) == -4


def test_where_they_cannot_be_launched_the_operators_compute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Without a GPU the first launch fails for one reason or another: the reason is logged, and nothing else happens.
    from aps_deploy.polyphase import ops

    usage._why_not_on.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(usage, "_why_no_launch", lambda device: "Triton cannot launch a kernel (no compiler)")
    x = torch.randn(2, 3, 4, 4)
    try:
        index = ops._polyphase_index_on_gpu(x, 2, "l2", "exact")
        taken = ops._polyphase_take_on_gpu(x, index, 2)
        put = ops._polyphase_put_on_gpu(taken, index, 2, 4, 4)
    finally:
        usage._why_not_on.cache_clear()
    expected, expected_index = polyphase_select(x)
    assert torch.equal(taken, expected) and torch.equal(index, expected_index)
    assert torch.equal(put.sum(), taken.sum())
    if usage.why_unavailable() is None:
        assert caplog.text.count("no compiler") == 1
