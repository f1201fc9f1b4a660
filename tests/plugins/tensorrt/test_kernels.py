"""The kernels compiled for four generations of GPUs, on a machine without one."""

from __future__ import annotations

import re
import types
from pathlib import Path

import pytest

from aps_deploy.errors import ApsError, InputError
from aps_deploy.plugins.tensorrt import kernels
from aps_deploy.plugins.tensorrt.kernels import (
    CompiledKernel,
    KernelVariant,
    Target,
    compiled_variant,
    parameters_of,
    triton_version,
    variant_for,
)
from aps_deploy.plugins.tensorrt.ptx import entry_point
from tests.plugins.tensorrt.selections import three_operators

pytest.importorskip("triton", reason="Triton, which compiles the kernels, is not installed")

ARCHITECTURES = {80: "sm_80", 90: "sm_90a", 100: "sm_100a", 120: "sm_120a"}
ENERGY, SCORE, SELECT = three_operators("l2", 2)
VARIANTS = {
    "aps_PolyphaseEnergy_L2_fp16_32_lanes_channels_last": KernelVariant(ENERGY, "fp16", 5, True),
    "aps_PolyphaseScore_fp32": KernelVariant(SCORE),
    "aps_PolyphaseBest_bf16": KernelVariant(SELECT, "bf16"),
}

compiling = pytest.mark.parametrize("capability", ARCHITECTURES)


@compiling
@pytest.mark.parametrize("name", VARIANTS)
def test_name_parameters_and_architecture(name: str, capability: int) -> None:
    kernel = compiled_variant(VARIANTS[name], Target(capability))
    entry = entry_point(kernel.ptx)
    assert kernel.name == entry.name == name
    assert kernel.architecture == entry.target == ARCHITECTURES[capability]
    assert kernel.num_threads == entry.num_threads == 128
    assert (
        entry.parameters
        == {
            "energy": ("u64", "u32", "u32", "u64", "u64"),
            "score": ("u64", "u64", "u32", "u32", "u64"),
            "select": ("u64", "u64", "u32", "u32", "u32", "u64", "u64"),
        }[VARIANTS[name].operator.kind]
    )


@compiling
@pytest.mark.parametrize("name", VARIANTS)
def test_the_driver_may_fuse_nothing_and_learns_no_folder(name: str, capability: int) -> None:
    """The driver compiles the text once more; a product and a sum that name their rounding stay two."""
    ptx = compiled_variant(VARIANTS[name], Target(capability)).ptx
    operations = re.findall(r"\b(?:add|sub|mul|mad|fma|div)\.[\w.]*f32(?:x2)?\b", ptx)
    assert bool(operations) == (VARIANTS[name].operator.kind != "select")
    assert [each for each in operations if ".rn" not in each] == []
    assert not re.search(r"\.file|\.loc|debug", ptx)
    assert str(Path(kernels.__file__).parent) not in ptx


@compiling
def test_triton_s_assembler_takes_the_text_under_its_new_name(capability: int) -> None:
    from aps_deploy.plugins.triton import ahead_of_time

    kernel = compiled_variant(VARIANTS["aps_PolyphaseScore_fp32"], Target(capability))
    made = ahead_of_time.CompiledKernel(kernel.name, kernel.ptx, (), 0, kernel.shared_bytes, 4, capability)
    assert ahead_of_time.assemble(made).startswith(b"\x7fELF")


def test_an_older_driver_gets_a_text_that_it_reads() -> None:
    newest = entry_point(compiled_variant(VARIANTS["aps_PolyphaseScore_fp32"], Target(100)).ptx).version
    for driver, expected in ((newest + 5, newest), (newest, newest), (90, 90)):
        kernel = compiled_variant(VARIANTS["aps_PolyphaseScore_fp32"], Target(100, driver))
        assert entry_point(kernel.ptx).version == expected


def test_a_kernel_that_needs_more_than_it_gets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "parameters_of", lambda operator: parameters_of(operator)[:-1])
    with pytest.raises(ApsError, match=r"takes \(u64, u64, u32, u32, u64\), and TensorRT would hand"):
        compiled_variant.__wrapped__(VARIANTS["aps_PolyphaseScore_fp32"], Target(80))


def _tensor(dtype: str = "HALF", layout: str = "LINEAR", channels: int = 24) -> types.SimpleNamespace:
    kind, form = types.SimpleNamespace(name=dtype), types.SimpleNamespace(name=layout)
    return types.SimpleNamespace(dtype=kind, format=form, shape=(-1, channels, -1, -1))


def test_the_variant_for_a_tensor() -> None:
    assert variant_for(ENERGY, _tensor()) == KernelVariant(ENERGY, "fp16", 5)
    assert variant_for(ENERGY, _tensor("FLOAT", "HWC", 3)) == KernelVariant(ENERGY, "fp32", 2, True)
    assert variant_for(SELECT, _tensor("BF16", "HWC8")) == KernelVariant(SELECT, "bf16", 0, True)
    assert variant_for(SCORE, _tensor("FLOAT")) == KernelVariant(SCORE)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (_tensor("INT8"), "take maps of FLOAT, HALF or BF16, and this one is of INT8"),
        (_tensor(layout="CHW32"), "in the layout CHW32, which they do not offer"),
        (_tensor(channels=-1), "number of channels is known"),
    ],
)
def test_tensors_without_a_kernel(tensor: types.SimpleNamespace, words: str) -> None:
    with pytest.raises(ApsError, match=words):
        variant_for(ENERGY, tensor)


def test_without_triton_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.match(r"\d+\.\d+", triton_version())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"triton is not installed; pip install 'aps-deploy\[triton\]', or export with"
    ):
        triton_version()


def test_a_compiled_kernel_is_compiled_once() -> None:
    first = compiled_variant(VARIANTS["aps_PolyphaseBest_bf16"], Target(80))
    assert isinstance(first, CompiledKernel)
    assert compiled_variant(KernelVariant(SELECT, "bf16"), Target(80)) is first
