"""Reading plans before they are loaded: real ones of TensorRT for RTX, and headers as TensorRT writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from aps_deploy.errors import InputError
from aps_deploy.runtimes.tensorrt.gpu import Gpu
from aps_deploy.runtimes.tensorrt.plan_file import (
    check_fits,
    check_kind,
    fixed_side,
    onnx_beside,
    read_plan_file,
)
from aps_deploy.runtimes.tensorrt.plan_header import PlanHeader, read_plan_header
from aps_deploy.runtimes.tensorrt.toolkit import TOOLKITS, Toolkit
from tests.export.engines.toys import CLASSES, toy, write_toy
from tests.runtimes.tensorrt.fake_engine import GPU, fake_toolkit, plan_bytes, write_plan


@pytest.fixture
def copied(rtx_plan: Path, tmp_path: Path) -> Path:
    """A real plan with its document and its ONNX file, to be damaged."""
    for path in rtx_plan.parent.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path / rtx_plan.name


def _edit(plan: Path, **changes: Any) -> None:
    beside = plan.with_suffix(".json")
    beside.write_text(json.dumps({**json.loads(beside.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_a_real_plan_tells_its_toolkit_and_version(rtx: Toolkit, rtx_plan: Path) -> None:
    assert read_plan_header(rtx_plan) == PlanHeader("trt-rtx", rtx.module.__version__)


def test_a_plan_of_tensorrt_tells_its_version(tmp_path: Path) -> None:
    path = tmp_path / "net.engine"
    path.write_bytes(plan_bytes(toy(), "10.13.3.9"))
    assert read_plan_header(path) == PlanHeader("trt", "10.13.3.9")


@pytest.mark.parametrize("content", [b"", b"ftrt", b"vtrt" + bytes(20), b"x" * 1000])
def test_what_is_no_plan_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.plan"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged or no TensorRT engine: it begins with .*; export it again\."):
        read_plan_header(path)
    with pytest.raises(InputError, match=r"none.plan does not exist"):
        read_plan_header(tmp_path / "none.plan")


def test_a_real_plan_that_lost_bytes_is_damaged(copied: Path) -> None:
    content = copied.read_bytes()
    copied.write_bytes(content[:-1])
    with pytest.raises(InputError, match=f"has {len(content) - 1} bytes and says that it has {len(content)}"):
        read_plan_header(copied)


def test_a_plan_with_its_document(rtx_plan: Path) -> None:
    plan = read_plan_file(rtx_plan)
    assert plan.metadata.class_names == CLASSES
    assert plan.metadata.selection_layers == ("pool",)
    assert plan.engine["toolkit"] == "trt-rtx"
    assert onnx_beside(plan) == rtx_plan.with_suffix(".onnx")
    assert fixed_side(plan) == 8
    assert not plan.runs_code_of_its_own


def test_a_changed_plan_is_refused(copied: Path) -> None:
    content = bytearray(copied.read_bytes())
    content[-1] ^= 1
    copied.write_bytes(content)
    with pytest.raises(InputError, match=r"changed since it was exported: its SHA-256 is not the one in toy.json"):
        read_plan_file(copied)


def test_a_renamed_plan_is_held_to_its_document_too(copied: Path) -> None:
    engine = copied.rename(copied.with_suffix(".engine"))
    assert read_plan_file(engine).metadata.class_names == CLASSES
    content = bytearray(engine.read_bytes())
    content[-1] ^= 1
    engine.write_bytes(content)
    with pytest.raises(InputError, match="changed since it was exported"):
        read_plan_file(engine)


def test_a_plan_without_its_document_is_not_run(copied: Path) -> None:
    beside = copied.with_suffix(".json")
    _edit(copied, file="toy.onnx")
    with pytest.raises(InputError, match=r"toy.json describes toy.onnx; copy it from where the engine was made"):
        read_plan_file(copied)
    beside.unlink()
    with pytest.raises(InputError, match=r"needs the document .* and toy.json is not there; copy it"):
        read_plan_file(copied)
    beside.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"toy.json"):
        read_plan_file(copied)
    for document in ("[]", '{"file": "toy.plan", "sha256": 1}'):
        beside.write_text(document, encoding="utf-8")
        with pytest.raises(InputError, match=r"toy.json is no document of aps-deploy; copy it"):
            read_plan_file(copied)


def test_damaged_metadata_is_told_by_its_file(copied: Path) -> None:
    _edit(copied, metadata={"class_names": "cat"})
    with pytest.raises(InputError, match=r"toy.json: the metadata cannot be read"):
        read_plan_file(copied)


def test_another_onnx_file_is_not_taken_for_its_source(copied: Path) -> None:
    write_toy(copied.with_suffix(".onnx"), "fp16")
    assert onnx_beside(read_plan_file(copied)) is None


def test_a_plan_of_the_other_toolkit_names_the_runtime(rtx_plan: Path) -> None:
    with pytest.raises(InputError, match=r"engine of TensorRT for RTX, which TensorRT does not run; .* tensorrt-rtx"):
        check_kind(read_plan_file(rtx_plan), "trt")


def test_a_real_plan_fits_the_toolkit_that_made_it(rtx: Toolkit, rtx_plan: Path) -> None:
    plan = read_plan_file(rtx_plan)
    check_fits(plan, rtx)
    newer = Toolkit(TOOLKITS["trt-rtx"], rtx.module, "1.8.0.1", None)
    with pytest.raises(InputError, match=rf"made by TensorRT for RTX {rtx.version} and 1.8.0.1 is installed"):
        check_fits(plan, newer)


@pytest.mark.parametrize(
    ("installed", "compatible", "fits"),
    [
        ("10.9.0.34", False, True),
        ("10.9.0.35", False, False),
        ("10.13.3.9", False, False),
        ("10.13.3.9", True, True),
        ("10.8.0.43", True, False),
        ("11.4.0.106", True, False),
    ],
)
def test_versions(installed: str, compatible: bool, fits: bool, tmp_path: Path) -> None:
    path = write_plan(tmp_path / "toy.plan", toy(), settings={"version_compatible": compatible})
    plan = read_plan_file(path)
    assert plan.runs_code_of_its_own == compatible
    if fits:
        check_fits(plan, fake_toolkit(version=installed))
        return
    with pytest.raises(InputError, match=f"was made by TensorRT 10.9.0.34 and {installed} is installed"):
        check_fits(plan, fake_toolkit(version=installed))


@pytest.mark.parametrize(
    ("engine", "capability", "refusal"),
    [
        ({}, "9.0", None),
        ({}, "8.6", "was compiled on a GPU of compute capability 9.0, and this machine has another of .* 8.6"),
        ({"settings": {"hardware_compatibility": "same-compute-capability"}}, "9.0", None),
        ({"settings": {"hardware_compatibility": "ampere-plus"}}, "12.0", None),
        ({"settings": {"hardware_compatibility": "ampere-plus"}}, "7.5", "compute capability 8.0 and newer"),
        ({"compute_capabilities": ["8.6", "8.9"]}, "9.0", "was compiled for compute capability 8.6, 8.9, and this"),
        ({"compute_capabilities": ["current"]}, "9.0", None),
        ({"compute_capabilities": ["current"]}, "8.9", "was compiled for compute capability 9.0"),
    ],
)
def test_gpus(engine: dict[str, Any], capability: str, refusal: str | None, tmp_path: Path) -> None:
    plan = read_plan_file(write_plan(tmp_path / "toy.plan", toy(), **engine))
    toolkit = fake_toolkit(gpu=GPU if capability == "9.0" else Gpu("another", capability, "13.0"))
    if refusal is None:
        check_fits(plan, toolkit)
        return
    with pytest.raises(InputError, match=refusal):
        check_fits(plan, toolkit)
