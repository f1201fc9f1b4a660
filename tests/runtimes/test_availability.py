"""The registry of runtimes: names, aliases, what is installed."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from aps_deploy.errors import InputError
from aps_deploy.runtimes import available_runtimes, resolve_runtime
from aps_deploy.runtimes.availability import (
    RUNTIMES,
    check_device,
    default_runtime,
    num_cuda_devices,
    require_runtime,
)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("torch", "torch"),
        ("PyTorch", "torch"),
        ("onnxruntime", "onnxruntime"),
        ("ORT", "onnxruntime"),
        ("reference", "onnx-reference"),
        ("onnx-reference", "onnx-reference"),
        ("ort-tensorrt", "onnxruntime-tensorrt"),
        ("TRT", "tensorrt"),
        ("trt-rtx", "tensorrt-rtx"),
    ],
)
def test_names_and_aliases(spelling: str, name: str) -> None:
    assert resolve_runtime(spelling).name == name


def test_aliases_name_one_runtime_each() -> None:
    spellings = [spelling for info in RUNTIMES.values() for spelling in (info.name, *info.aliases)]
    assert len(spellings) == len(set(spellings))


def test_unknown_runtime_lists_the_accepted() -> None:
    with pytest.raises(InputError, match=r"'onnxruntme' \(did you mean onnxruntime.*accepted: torch, onnxruntime"):
        resolve_runtime("onnxruntme")


def test_defaults() -> None:
    assert default_runtime("checkpoint").name == "torch"
    assert default_runtime("onnx").name == "onnxruntime"


def test_installed_runtimes_give_their_version() -> None:
    statuses = {status.name: status for status in available_runtimes()}
    assert set(statuses) == set(RUNTIMES)
    for status in statuses.values():
        extra = {"openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}.get(status.name)
        if extra is not None and importlib.util.find_spec(RUNTIMES[status.name].module) is None:
            assert not status.available and f"aps-deploy[{extra}]" in status.reason
            continue
        assert status.available
        assert any(character.isdigit() for character in status.reason)


def test_missing_runtime_gives_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status = next(status for status in available_runtimes() if status.name == "onnxruntime")
    assert not status.available
    assert "pip install onnxruntime" in status.reason
    with pytest.raises(InputError, match="pip install onnxruntime"):
        require_runtime(RUNTIMES["onnxruntime"])


def test_folder_left_by_an_uninstalled_package_is_no_runtime(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("site")
    (folder / "onnxruntime").mkdir()
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "path", [str(folder)])
    assert not next(status for status in available_runtimes() if status.name == "onnxruntime").available


def test_devices() -> None:
    assert check_device(None, RUNTIMES["torch"]) is None
    assert check_device("auto", RUNTIMES["torch"]) is None
    assert check_device("cuda", RUNTIMES["torch"]) == "cuda"
    with pytest.raises(InputError, match="'gpu'; accepted: cpu, cuda"):
        check_device("gpu", RUNTIMES["torch"])
    with pytest.raises(InputError, match="'cuda'; accepted: cpu"):
        check_device("cuda", RUNTIMES["onnx-reference"])


def test_driver_and_torch_agree_on_the_devices() -> None:
    import torch

    if not torch.cuda.is_available():
        assert num_cuda_devices() == 0
    else:
        assert num_cuda_devices() == torch.cuda.device_count()
