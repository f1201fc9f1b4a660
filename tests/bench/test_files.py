"""Models beside each other: what runs, on what, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aps_deploy.bench.files import FileSettings, measure_files
from aps_deploy.bench.table import files_table
from aps_deploy.errors import ApsError, InputError
from aps_deploy.models import create_model, save_checkpoint
from aps_deploy.preprocessing import CIFAR10
from tests.runtimes import graphs


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    files = []
    for name, size in (("a", 8), ("b", 8), ("large", 16)):
        graphs.save(graphs.classifier(shape=("N", 3, size, size)), tmp_path / f"{name}.onnx")
        files.append(str(tmp_path / f"{name}.onnx"))
    return files


def test_every_file_runs_in_every_runtime_that_reads_it(models: list[str]) -> None:
    runtimes = ("onnxruntime", "onnx-reference", "torch")
    result = measure_files(FileSettings((models[1],), against=models[0], batch_size=3, runtimes=runtimes, rounds=2))
    found = [(entry.file, entry.runtime) for entry in result.measured]
    assert found == [(file, runtime) for file in models[:2] for runtime in ("onnxruntime", "onnx-reference")]
    assert (result.image_size, result.batch_size) == (8, 3)
    assert set(result.measured[0].ratio.values()) == {1.0}
    for entry in result.measured:
        assert 0 < entry.run_ms["smallest"] <= entry.p50_ms <= entry.p90_ms <= entry.p99_ms <= entry.run_ms["largest"]
        assert entry.images_per_s == pytest.approx(3000 / entry.run_ms["median"])
        assert entry.ratio["median"] > 0 and entry.clock == "host" and entry.providers
        assert 3 <= result.windows == len(entry.window_medians_ms) <= 10
    assert result.to_dict()["measured"][0]["clock"] == "host"


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    return str(save_checkpoint(tmp_path / "net.safetensors", create_model("resnet20_aps1"), preprocessing=CIFAR10))


def test_one_network_in_pytorch_and_in_its_exported_file(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    graphs.save(graphs.classifier(shape=("N", 3, 32, 32)), tmp_path / "net.onnx")
    runtimes = ("torch", "torch-compiled", "onnxruntime")
    result = measure_files(FileSettings((checkpoint, str(tmp_path / "net.onnx")), rounds=1, runtimes=runtimes))
    assert [entry.runtime for entry in result.measured] == list(runtimes) and len(compiled) == 1
    assert result.image_size == 32 and result.skipped == ()


def test_every_runtime_of_this_machine_and_why_the_others_are_left_out(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(function: object) -> object:
        def fail(images: object) -> None:
            raise OSError("no compiler")

        return fail

    monkeypatch.setattr(torch, "compile", compiled)
    result = measure_files(FileSettings((checkpoint,), rounds=1, runtimes=("all",)))
    assert [entry.runtime for entry in result.measured] == ["torch"]
    (left_out,) = result.skipped
    assert left_out.runtime == "torch-compiled" and "needs a C++ compiler" in left_out.reason
    assert "torch-compiled left out: torch.compile failed" in str(files_table(result).caption)
    with pytest.raises(ApsError, match="no compiler"):
        measure_files(FileSettings((checkpoint,), rounds=1, runtimes=("torch-compiled",)))


def test_a_file_that_runs_nowhere(models: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no ONNX file")
    with pytest.raises(InputError, match=r"no runtime of this machine runs .*broken\.onnx \(onnxruntime: "):
        measure_files(FileSettings((models[0], str(tmp_path / "broken.onnx")), runtimes=("all",)))


@pytest.mark.parametrize("count", [10**14, 10**20])
def test_more_images_than_memory(models: list[str], count: int) -> None:
    with pytest.raises(InputError, match=f"{count} images of 8x8 do not fit into the memory"):
        measure_files(FileSettings((models[0],), batch_size=count))


def test_what_cannot_be_compared(models: list[str]) -> None:
    with pytest.raises(InputError, match="different sizes"):
        measure_files(FileSettings((models[0], models[2])))
    with pytest.raises(InputError, match=r"none of the runtimes given runs .*a\.onnx; accepted for it: onnxruntime"):
        measure_files(FileSettings((models[0],), runtimes=("torch",)))
    with pytest.raises(InputError, match="different sizes"):
        measure_files(FileSettings((models[0],), image_size=32))
