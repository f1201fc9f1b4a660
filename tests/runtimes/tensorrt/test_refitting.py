"""Plans without weights: the ONNX file is found by its hash, its weights are put in, and what fails is one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.tensorrt import toolkit as toolkits
from aps_deploy.runtimes.tensorrt_session import TensorRtSession
from tests.export.engines.toys import toy, write_toy
from tests.gpus import needs_torch_cuda, toolkit_here
from tests.runtimes.tensorrt.fake_rtx import fake_rtx, write_rtx_plan, write_stripped_plan

IMAGES = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "toy.onnx")


@pytest.fixture
def stripped(source: Path, fake_cuda: None) -> Path:
    return write_stripped_plan(source.with_suffix(".plan"), source)


def _expected() -> np.ndarray:
    peer = onnxruntime.InferenceSession(toy().SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = peer.run(["logits"], {"images": IMAGES})
    return np.asarray(logits)


def _logits(plan: Path) -> np.ndarray:
    with TensorRtSession(plan, toolkit=fake_rtx()) as session:
        return session.run(IMAGES)["logits"]


@pytest.mark.parametrize("name", ["toy.onnx", "a name of its own.onnx"])
def test_the_weights_come_from_the_file_with_the_hash(name: str, stripped: Path, source: Path) -> None:
    source.rename(source.with_name(name))
    write_toy(source.with_name("another.onnx"), "fp16")
    np.testing.assert_array_equal(_logits(stripped), _expected())


def test_without_that_file_it_is_named_on_any_machine(
    stripped: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolkits, "first_gpu", lambda: None)
    needed = (
        r"no ONNX file beside it has the hash of toy\.onnx, .* weights \(SHA-256 [0-9a-f]{16}\.\.\.\); copy that file"
    )
    write_toy(source, "fp16")  # of that name, and another file
    with pytest.raises(InputError, match=needed):
        TensorRtSession(stripped)
    source.unlink()
    with pytest.raises(InputError, match=needed) as raised:
        TensorRtSession(stripped)
    assert "\n" not in str(raised.value)


def test_an_engine_that_takes_no_weights(source: Path, fake_cuda: None) -> None:
    plan = write_rtx_plan(source.with_suffix(".plan"), toy(), has_weights=False)
    refused = r"of toy\.onnx could not be put into .*toy\.plan \(the engine takes none\); export it again"
    with pytest.raises(ApsError, match=refused):
        TensorRtSession(plan, toolkit=fake_rtx())
    source.unlink()
    with pytest.raises(InputError, match="has the hash of the ONNX file it was compiled from, which"):
        TensorRtSession(plan, toolkit=fake_rtx())


def test_weights_that_do_not_fit(source: Path, fake_cuda: None) -> None:
    model = onnx.load(source)
    model.doc_string = "other weights"
    onnx.save(model, source)
    plan = write_stripped_plan(source.with_suffix(".plan"), source)
    with pytest.raises(
        ApsError, match=r"could not be put into .*toy\.plan \(no such weights\); export it again"
    ) as raised:
        TensorRtSession(plan, toolkit=fake_rtx())
    assert raised.value.exit_code == 1 and "\n" not in str(raised.value)


def test_a_plan_with_weights_asks_for_no_file(tmp_path: Path, fake_cuda: None) -> None:
    plan = write_rtx_plan(tmp_path / "toy.plan", toy())
    np.testing.assert_array_equal(_logits(plan), _expected())


@pytest.mark.gpu
@needs_torch_cuda
@pytest.mark.parametrize("kind", ["trt", "trt-rtx"])
def test_a_real_plan_without_weights_answers_as_the_network_does(
    kind: toolkits.EngineKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aps_deploy.export.engines import EngineSettings, export_engine

    toolkit = toolkit_here(kind)
    source = write_toy(tmp_path / "toy.onnx")
    built = export_engine(source, tmp_path / "toy.plan", EngineSettings(kind, strip_weights=True))
    shutil.move(source, tmp_path / "weights.onnx")
    monkeypatch.setenv("APS_DEPLOY_RUNTIME_CACHE", str(tmp_path / "kernels"))
    for _ in range(2):  # the second time with the kernels of the first
        with TensorRtSession(built.path) as session:
            np.testing.assert_allclose(session.run(IMAGES)["logits"], _expected(), atol=1e-4, rtol=1e-3)
    assert len(list(tmp_path.glob("kernels/*"))) == toolkit.is_rtx
