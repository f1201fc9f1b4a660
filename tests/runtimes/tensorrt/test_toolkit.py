"""Finding the toolkits: what is missing is said in a sentence, before anything is read or compiled."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.tensorrt import toolkit as module
from aps_deploy.runtimes.tensorrt.gpu import Gpu, describe_first
from aps_deploy.runtimes.tensorrt.toolkit import TOOLKITS, Toolkit, check_toolkit, check_version, load_toolkit
from tests.gpus import needs_torch_cuda

GPU = Gpu("a GPU", "9.0", "13.0")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both packages are there, as far as anyone looks."""
    monkeypatch.setattr(module, "_is_installed", lambda _: True)


@pytest.mark.parametrize(("kind", "extra"), [("trt", "tensorrt"), ("trt-rtx", "rtx")])
def test_a_missing_package_comes_with_its_install_command(
    kind: Any, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_is_installed", lambda _: False)
    with pytest.raises(InputError, match=rf"is not installed; pip install 'aps-deploy\[{extra}\]'\."):
        check_toolkit(kind)


@pytest.mark.usefixtures("installed")
def test_tensorrt_needs_a_gpu_and_says_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "first_gpu", lambda: None)
    with pytest.raises(InputError, match=r"no CUDA device is found .* --engine trt-rtx, which compiles without"):
        check_toolkit("trt")
    assert check_toolkit("trt-rtx") is TOOLKITS["trt-rtx"]


@pytest.mark.usefixtures("installed")
def test_a_package_without_its_libraries_is_said_to_be_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> Any:
        raise ImportError("libnvinfer.so.11: cannot open shared object file\nmore")

    monkeypatch.setattr(module, "first_gpu", lambda: GPU)
    monkeypatch.setattr(module.importlib, "import_module", broken)
    with pytest.raises(ApsError, match=r"TensorRT is installed but cannot be loaded \(libnvinfer.so.11: .*file\)"):
        load_toolkit("trt")


@pytest.mark.parametrize(
    ("kind", "version", "accepted"),
    [
        ("trt", "10.9.0.34", True),
        ("trt", "10.13.3.9", True),
        ("trt", "11.4.0.106", True),
        ("trt", "10.8.0.43", False),
        ("trt", "8.6.1", False),
        ("trt", "12.0.0", False),
        ("trt", "unknown", False),
        ("trt-rtx", "1.7.1.116", True),
        ("trt-rtx", "1.3.0.35", False),
        ("trt-rtx", "2.0.0.1", False),
    ],
)
def test_versions(kind: Any, version: str, accepted: bool) -> None:
    if accepted:
        check_version(TOOLKITS[kind], version)
        return
    words = {"trt": "10.9 to 11.x", "trt-rtx": "1.4 or a later 1.x"}[kind]
    with pytest.raises(InputError, match=rf"{version} is installed, and --engine {kind} works with {words}"):
        check_version(TOOLKITS[kind], version)


def test_the_real_package_is_found_with_its_version(rtx: Toolkit) -> None:
    assert rtx.is_rtx
    assert rtx.module is sys.modules["tensorrt_rtx"]
    assert rtx.version == rtx.module.__version__
    assert rtx.has_flag("TF32") and not rtx.has_flag("FP16")


def test_the_packages_the_project_installs_are_the_ones_looked_for() -> None:
    import tomllib
    from pathlib import Path

    from packaging.requirements import Requirement

    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    for info in TOOLKITS.values():
        (text,) = project["optional-dependencies"][info.extra]
        requirement = Requirement(text)
        assert requirement.name == f"{info.module.replace('_', '-')}-cu13"
        # What a message tells to install is a version that is accepted afterwards.
        (oldest,) = (each.version for each in requirement.specifier if each.operator == ">=")
        check_version(info, oldest)
        assert requirement.specifier.contains(f"{info.end - 1}.99")
        assert not requirement.specifier.contains(f"{info.end}.0")


class _Driver:
    """The functions of libcuda that are asked, answering for one device."""

    def __init__(self, error: int = 0) -> None:
        self.error = error

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = b"NVIDIA H100 80GB HBM3"
        return self.error

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = {75: 9, 76: 0}[attribute]
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 13010
        return 0


def test_what_the_driver_says_of_a_gpu() -> None:
    assert describe_first(_Driver()) == Gpu("NVIDIA H100 80GB HBM3", "9.0", "13.1")
    assert describe_first(_Driver(error=101)) is None


@pytest.mark.gpu
@needs_torch_cuda
def test_the_gpu_of_this_machine_is_the_one_torch_sees() -> None:
    import torch

    gpu = module.first_gpu()
    assert gpu is not None
    assert gpu.name == torch.cuda.get_device_name(0)
    assert gpu.compute_capability == ".".join(map(str, torch.cuda.get_device_capability(0)))


def test_a_namespace_left_behind_is_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    specification = SimpleNamespace(origin=None)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: specification)
    assert not module._is_installed("tensorrt")
