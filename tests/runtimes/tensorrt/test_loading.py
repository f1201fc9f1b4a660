"""What the real runtime answers without a GPU, and how its refusals read."""

from __future__ import annotations

from pathlib import Path

import pytest

from aps_deploy.errors import InputError
from aps_deploy.runtimes.availability import num_cuda_devices
from aps_deploy.runtimes.tensorrt.loading import LoadedEngine, deserialised, refusal
from aps_deploy.runtimes.tensorrt.log import ToolkitLog, new_logger
from aps_deploy.runtimes.tensorrt.plan_file import read_plan_file
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit
from tests.export.engines.toys import toy
from tests.runtimes.tensorrt.fake_engine import fake_toolkit, plan_bytes, write_plan


def _refused(rtx: Toolkit, content: bytes) -> str:
    log = ToolkitLog()
    logger = new_logger(rtx, log)
    runtime = rtx.module.Runtime(logger)
    with pytest.raises(InputError) as caught:
        deserialised(runtime, content, rtx, log, "net.plan")
    return str(caught.value)


@pytest.mark.skipif(num_cuda_devices() > 0, reason="there is a GPU, so the plan loads")
def test_without_a_driver_the_real_runtime_names_it(rtx: Toolkit, rtx_plan: Path) -> None:
    with pytest.raises(InputError, match=r"toy.plan cannot run with this driver, which is missing or too old; install"):
        LoadedEngine(read_plan_file(rtx_plan), rtx)


def test_the_real_runtime_tells_damage_from_a_missing_driver(rtx: Toolkit, rtx_plan: Path) -> None:
    content = rtx_plan.read_bytes()
    assert _refused(rtx, content[: len(content) // 2]).startswith("net.plan is damaged")
    assert _refused(rtx, content[:20]).startswith("net.plan is damaged")
    assert _refused(rtx, b"x" * 1000).startswith("net.plan is damaged")
    # TensorRT's own plans have another tag.
    assert _refused(rtx, plan_bytes(toy())).startswith("net.plan is damaged")


def test_refusals_read_as_sentences() -> None:
    toolkit = fake_toolkit()
    for message, sentence in (
        ("expecting compute capability 9.0 got compute capability 8.6", "was not compiled for the GPU of this machine"),
        ("The engine plan file is not compatible with this version of TensorRT", "was made by another version"),
        ("Requested amount of GPU memory could not be allocated", "does not fit into the GPU's memory"),
        ("cudaError 999", "CUDA fails on this machine"),
    ):
        text = refusal(toolkit, ToolkitLog([("ERROR", message)]), "net.plan")
        assert text.startswith("net.plan") and sentence in text and text.endswith(".")
    assert "(something new); export" in refusal(toolkit, ToolkitLog([("ERROR", "something new.\nmore")]), "net.plan")
    assert "it gave no reason" in refusal(toolkit, ToolkitLog(), "net.plan")


@pytest.mark.parametrize("compatible", [False, True])
def test_only_a_version_compatible_plan_may_bring_code(compatible: bool, tmp_path: Path) -> None:
    plan = read_plan_file(write_plan(tmp_path / "toy.plan", toy(), settings={"version_compatible": compatible}))
    toolkit = fake_toolkit()
    LoadedEngine(plan, toolkit)
    assert toolkit.module.Runtime.last.engine_host_code_allowed == compatible
