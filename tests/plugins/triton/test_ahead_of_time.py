"""The kernels compiled for every architecture by Triton and its assembler, without a GPU."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from aps_deploy.errors import ApsError
from aps_deploy.plugins.triton import tiles

pytest.importorskip("triton", reason="the kernels: Triton is not installed")

from aps_deploy.plugins.triton.ahead_of_time import (
    MAP_TYPES,
    CompiledKernel,
    assemble,
    compile_kernel,
    without_unread_parameters,
)
from aps_deploy.plugins.triton.kernels import energies, scores, taking

ARCHITECTURES = (80, 90, 100, 120)
# Those that a plugin of TensorRT launches.
OF_A_SELECTION = (energies.energy, scores.score, taking.select, energies.blurred_energy, taking.blurred_select)
EVERY = (*OF_A_SELECTION, scores.decide, taking.take, taking.put, taking.blurred_take, taking.blurred_put)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def constants_of(
    kernel: Any, *, criterion: str = "l2", stride: int = 2, filter_size: int = 3, channels_last: bool = False
) -> dict[str, Any]:
    """Return the constants for maps of 64 channels and 56x56 pixels."""
    size = filter_size if kernel.__name__.startswith("blurred") else 1
    tile = tiles.energy_tile(64, 56 * 56, size)
    every = {
        "NORM": criterion.removesuffix("_min"),
        "KEEPS_SMALLEST": criterion.endswith("_min"),
        "STRIDE": stride,
        "PARTS": 8,
        "FILTER_SIZE": size,
        "CHANNELS_LAST": channels_last,
        "ENERGY_PIXELS": tile.block_pixels,
        "BLOCK": tiles.copying_block(size),
        **tile.constants(),
        **tiles.score_constants(stride),
    }
    return {parameter.name: every[parameter.name] for parameter in kernel.params if parameter.is_constexpr}


def check(compiled: CompiledKernel) -> None:
    """Assemble the kernel and check what a launch relies on, and what equal bits rely on."""
    entry = re.search(r"\.entry (\w+)\((.*?)\)", compiled.ptx, re.DOTALL)
    assert entry is not None and entry[1] == compiled.name
    declared = re.findall(r"\.param \.(\w+)", entry[2])
    assert declared == ["u32" if parameter.type == "i32" else "u64" for parameter in compiled.parameters]
    assert compiled.num_scratch_pointers == 0
    assert compiled.shared_bytes <= 48 * 1024  # what a launch may ask for without more ado
    # Whatever could be fused names its rounding, which forbids it, and no thread adds into another's sum.
    operations = re.findall(r"\b(?:add|sub|mul|mad|div)(?:\.\w+)*\.f32(?:x2)?\b", compiled.ptx)
    assert all(".rn" in operation for operation in operations), operations
    assert not re.search(r"\b(?:atom|red)\.", compiled.ptx)
    assert ".loc" not in compiled.ptx and "/" not in re.sub(r"//.*", "", compiled.ptx)
    assert assemble(compiled)[:4] == b"\x7fELF"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kernels_of_a_selection_compile(architecture: int) -> None:
    for kernel in OF_A_SELECTION:
        compiled = compile_kernel(kernel, "fp16", constants_of(kernel), architecture)
        assert re.search(rf"\.target sm_{architecture}a?\b", compiled.ptx)
        check(compiled)


@pytest.mark.parametrize("kernel", EVERY[len(OF_A_SELECTION) :], ids=lambda kernel: kernel.__name__)
def test_every_other_kernel_compiles(kernel: Any) -> None:
    check(compile_kernel(kernel, "bf16", constants_of(kernel), 80))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", EVERY, ids=lambda kernel: kernel.__name__)
def test_every_kernel_compiles_for_every_map(kernel: Any, architecture: int) -> None:
    for map_type, channels_last, criterion in itertools.product(MAP_TYPES, (False, True), ("l2", "l1_min", "max")):
        stride = 3 if criterion == "max" else 2
        constants = constants_of(kernel, criterion=criterion, stride=stride, channels_last=channels_last)
        check(compile_kernel(kernel, map_type, constants, architecture))


@pytest.mark.slow
@pytest.mark.parametrize(("stride", "filter_size"), list(itertools.product((2, 3, 4), (2, 5, 7))))
def test_every_blur_and_stride_compiles(stride: int, filter_size: int) -> None:
    for kernel in EVERY:
        check(compile_kernel(kernel, "fp32", constants_of(kernel, stride=stride, filter_size=filter_size), 80))


def test_arguments_are_inputs_then_sizes_then_outputs() -> None:
    outputs = {"energies", "maxima", "scores", "index", "y", "x"}
    for kernel in EVERY:
        names = [parameter.name for parameter in kernel.params if not parameter.is_constexpr]
        is_size = [name in ("channels", "pixels", "height", "width") for name in names]
        if any(is_size):
            first, last = is_size.index(True), len(is_size) - is_size[::-1].index(True)
            assert all(is_size[first:last]) and set(names[last:]) <= outputs and names[last:], names


def test_an_older_ptx_can_be_asked_for() -> None:
    compiled = compile_kernel(scores.decide, "fp32", constants_of(scores.decide), 80, ptx_version=80)
    assert ".version 8.0" in compiled.ptx
    check(compiled)


def test_a_missing_constant_is_named() -> None:
    with pytest.raises(ApsError, match=r"decide takes the constants .*'PARTS'.*, not \['NORM'\]"):
        compile_kernel(scores.decide, "fp32", {"NORM": "l2"}, 80)


PTX = """\
.visible .entry kernel(
	.param .u64 .ptr .global .align 1 kernel_param_0,
	.param .u32 kernel_param_1,
	.param .u64 .ptr .global .align 1 kernel_param_2,
	.param .u64 .ptr .global .align 1 kernel_param_3
)
{
	ld.param.u64 	%rd1, [READ];
	ret;
}
"""


def test_only_what_nothing_reads_is_taken_out() -> None:
    ptx, num_left = without_unread_parameters(PTX.replace("READ", "kernel_param_0"), 2)
    assert num_left == 0 and ptx.count(".param .u") == 2 and "kernel_param_1\n)" in ptx
    # The last is read, so the one before it must stay too: arguments are counted.
    ptx, num_left = without_unread_parameters(PTX.replace("READ", "kernel_param_3"), 2)
    assert num_left == 2 and ptx == PTX.replace("READ", "kernel_param_3")
    ptx, num_left = without_unread_parameters(PTX.replace("READ", "kernel_param_2"), 2)
    assert num_left == 1 and "kernel_param_3" not in ptx
