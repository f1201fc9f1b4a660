"""Models beside each other: what runs, on what, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from aps_deploy.bench.files import FileSettings, measure_files
from aps_deploy.errors import InputError
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
    result = measure_files(FileSettings((models[1],), against=models[0], batch_size=3, runtimes=runtimes, rounds=4))
    found = [(entry.file, entry.runtime) for entry in result.measured]
    assert found == [(file, runtime) for file in models[:2] for runtime in ("onnxruntime", "onnx-reference")]
    assert (result.image_size, result.batch_size) == (8, 3)
    assert set(result.measured[0].ratio.values()) == {1.0}
    for entry in result.measured:
        assert 0 < entry.run_ms["smallest"] <= entry.p50_ms <= entry.p90_ms <= entry.p99_ms <= entry.run_ms["largest"]
        assert entry.images_per_s == pytest.approx(3000 / entry.run_ms["median"])
        assert entry.ratio["median"] > 0


def test_what_cannot_be_compared(models: list[str]) -> None:
    with pytest.raises(InputError, match="different sizes"):
        measure_files(FileSettings((models[0], models[2])))
    with pytest.raises(InputError, match=r"none of the runtimes given runs .*a\.onnx; accepted for it: onnxruntime"):
        measure_files(FileSettings((models[0],), runtimes=("torch",)))
    with pytest.raises(InputError, match="different sizes"):
        measure_files(FileSettings((models[0],), image_size=32))
