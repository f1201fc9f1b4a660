"""Engines that cannot be made or run: every command ends in one sentence and the exit code of wrong usage or failure.

Toolkits, drivers and GPUs are taken away, or stood in for, where this machine has others; the parser, the builder and
the plans are TensorRT for RTX's own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import Result

from aps_deploy.preprocessing import Preprocessing
from aps_deploy.runtimes import tensorrt_session
from aps_deploy.runtimes.tensorrt import toolkit as toolkits
from aps_deploy.runtimes.tensorrt.gpu import Gpu
from tests.cli.conftest import Invoke
from tests.cli.test_bad_input import is_one_sentence
from tests.export.engines.toys import CLASSES, SIZE, toy, write_toy
from tests.runtimes.tensorrt import fake_rtx
from tests.runtimes.tensorrt.fake_cuda import install_fake_cuda

PREPROCESSING = Preprocessing(SIZE, None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
OTHER = Gpu("a data centre's GPU", "9.0", "13.0")
RUNS = ("predict", "evaluate", "verify", "bench", "serve")


def _one_sentence(result: Result, *words: str, exit_code: int = 2) -> None:
    """The same as for other bad input, but that the compiler's own progress may stand on stderr before the sentence."""
    assert result.exit_code == exit_code, result.output
    assert result.stdout == "" and "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert line.endswith(".") and result.stderr.rstrip().endswith(line)
    for word in words:
        assert word in line, line


@pytest.fixture(scope="module")
def made(invoke: Invoke, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file and the plan that the command made of it, on this machine, whatever it has."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed (extra rtx)")
    folder = tmp_path_factory.mktemp("engine")
    source = write_toy(folder / "toy.onnx", preprocessing=PREPROCESSING.to_dict())
    result = invoke("export", source, "--engine", "trt-rtx", "-o", folder / "toy.plan", "--profile", "2:3:4")
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def plan(made: Path, tmp_path: Path) -> Path:
    """The plan, to be damaged."""
    for path in made.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path / "toy.plan"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images of two classes."""
    root = tmp_path / "images"
    for number in range(6):
        target = root / CLASSES[number % 2]
        target.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIZE, SIZE), (40 * number, 10, 200)).save(target / f"{number}.png")
    return root


@pytest.fixture
def rtx_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an RTX GPU, and with TensorRT for RTX, as far as sessions use them."""
    install_fake_cuda(monkeypatch)
    monkeypatch.setattr(tensorrt_session, "load_toolkit", lambda kind, **_: fake_rtx.fake_rtx())


def _run(invoke: Invoke, command: str, plan: Path, folder: Path) -> Result:
    arguments: dict[str, tuple[Any, ...]] = {
        "predict": (folder,),
        "evaluate": ("--data", folder),
        "verify": ("--data", folder),
        "bench": (),
        "serve": ("--port", "0", "--grpc-port", "0"),
    }
    return invoke(command, plan, *arguments[command])


@pytest.mark.parametrize(("engine", "extra"), [("trt", "tensorrt"), ("trt-rtx", "rtx")])
def test_no_tensorrt_to_compile_with(
    engine: str, extra: str, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolkits, "_is_installed", lambda _: False)
    source = write_toy(tmp_path / "toy.onnx")
    result = invoke("export", source, "-o", tmp_path / "toy.plan", "--engine", engine)
    is_one_sentence(result, f"--engine {engine} needs", "is not installed", f"pip install 'aps-deploy[{extra}]'")
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


@pytest.mark.parametrize("command", RUNS)
def test_no_tensorrt_to_run_with(
    command: str, invoke: Invoke, plan: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolkits, "_is_installed", lambda _: False)
    _one_sentence(_run(invoke, command, plan, folder), "toy.plan", "tensorrt_rtx is not installed", "aps-deploy[rtx]")


@pytest.mark.parametrize("command", RUNS)
def test_no_driver(command: str, invoke: Invoke, plan: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkits, "first_gpu", lambda: None)
    result = _run(invoke, command, plan, folder)
    _one_sentence(result, "toy.plan needs a GPU", "no CUDA device is found", "--runtime onnxruntime")


def test_no_driver_to_compile_for(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkits, "_is_installed", lambda _: True)
    monkeypatch.setattr(toolkits, "first_gpu", lambda: None)
    source = write_toy(tmp_path / "toy.onnx")
    result = invoke("export", source, "-o", tmp_path / "toy.plan", "--engine", "trt")
    is_one_sentence(result, "no CUDA device is found", "--engine trt-rtx, which compiles without")


@pytest.mark.parametrize(
    ("capability", "words", "exit_code"),
    [
        ("9.0", ("compiles for no compute capability '9.0'", "choose from 8.0, 8.6", ", or 7.5 for a file whose"), 2),
        ("7.5", ("could not build the engine", "leave 7.5 out of --compute-capability"), 1),
    ],
)
def test_a_compute_capability_it_cannot_compile_for(
    capability: str, words: tuple[str, ...], exit_code: int, invoke: Invoke, plan: Path
) -> None:
    source, output = plan.with_suffix(".onnx"), plan.with_name("new.plan")
    result = invoke("export", source, "-o", output, "--engine", "trt-rtx", "--compute-capability", capability)
    _one_sentence(result, *words, exit_code=exit_code)
    assert not output.exists() and not output.with_suffix(".json").exists()


@pytest.mark.parametrize("command", RUNS)
def test_a_gpu_it_was_not_compiled_for(
    command: str, invoke: Invoke, tmp_path: Path, folder: Path, rtx_gpu: None
) -> None:
    model = _with_preprocessing(toy())
    plan = fake_rtx.write_rtx_plan(tmp_path / "toy.plan", model, compute_capabilities=["8.9", "12.0"])
    result = _run(invoke, command, plan, folder)
    _one_sentence(result, "was compiled for compute capability 8.9, 12.0, and this machine has an RTX GPU")


@pytest.mark.parametrize("command", RUNS)
def test_a_gpu_that_the_toolkit_does_not_know(
    command: str, invoke: Invoke, tmp_path: Path, folder: Path, rtx_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_session, "load_toolkit", lambda kind, **_: fake_rtx.fake_rtx(gpu=OTHER))
    model = _with_preprocessing(toy())
    model.doc_string = "not for this GPU"
    plan = fake_rtx.write_rtx_plan(tmp_path / "toy.plan", model, gpu=None)
    _one_sentence(
        _run(invoke, command, plan, folder),
        "toy.plan cannot run on a data centre's GPU of compute capability 9.0",
        "compiles for 8.6, 12.0",
        "--engine trt",
    )


@pytest.mark.parametrize("command", RUNS)
def test_a_plan_of_another_version(
    command: str, invoke: Invoke, plan: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real plan that says it is of 1.4, and the real toolkit; only the GPU is pretended."""
    content = bytearray(plan.read_bytes())
    content[24:28] = bytes([1, 4, 0, 76])
    plan.write_bytes(content)
    _edit(plan, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(toolkits, "first_gpu", lambda: Gpu("an RTX GPU", "8.6", "13.0"))
    result = _run(invoke, command, plan, folder)
    _one_sentence(result, "was made by TensorRT for RTX 1.4.0.76 and", "is installed", "export it again here")


@pytest.mark.parametrize("command", RUNS)
def test_a_damaged_plan(command: str, invoke: Invoke, plan: Path, folder: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])
    _one_sentence(_run(invoke, command, plan, folder), "toy.plan is damaged", "export it again")


@pytest.mark.parametrize("command", RUNS)
def test_a_plan_without_weights_and_without_their_file(command: str, invoke: Invoke, plan: Path, folder: Path) -> None:
    """Which file is needed is said on any machine, before what the machine lacks."""
    document = json.loads(plan.with_suffix(".json").read_text(encoding="utf-8"))
    _edit(plan, engine={**document["engine"], "has_weights": False}, onnx_file="toy.onnx")
    plan.with_suffix(".onnx").rename(plan.with_name("elsewhere"))
    result = _run(invoke, command, plan, folder)
    _one_sentence(result, "no ONNX file beside it has the hash of toy.onnx", "copy that file there")


def test_weights_that_would_be_gone(invoke: Invoke, tmp_path: Path, checkpoint: Path) -> None:
    result = invoke("export", checkpoint, "-o", tmp_path / "x.plan", "--engine", "trt-rtx", "--strip-weights")
    is_one_sentence(result, "--strip-weights leaves the weights in an ONNX file", "-o NAME.onnx")
    assert not list(tmp_path.iterdir())


def test_an_operator_that_tensorrt_does_not_know(invoke: Invoke, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed (extra rtx)")
    shape = ["N", 3, 8, 8]
    graph = helper.make_graph(
        [helper.make_node("Sharpen", ["images"], ["logits"], name="a/Sharpen", domain="mine")],
        "unknown",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), tmp_path / "sharp.onnx")
    result = invoke("export", tmp_path / "sharp.onnx", "-o", tmp_path / "sharp.plan", "--engine", "trt-rtx")
    _one_sentence(result, "sharp.onnx holds the operator Sharpen, unknown to TensorRT for RTX", "--polyphase where")
    assert [path.name for path in tmp_path.iterdir()] == ["sharp.onnx"]


def test_a_batch_that_the_file_does_not_take(invoke: Invoke, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed (extra rtx)")
    model = toy()
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "one.onnx")
    result = invoke("export", tmp_path / "one.onnx", "-o", tmp_path / "one.plan", "--engine", "trt-rtx")
    _one_sentence(result, "takes batches of 1 only", "--max-batch 1")


@pytest.mark.parametrize("batch", ["1", "5", "64"])
def test_batches_outside_the_profiles_are_filled_up_or_cut(
    batch: str, invoke: Invoke, tmp_path: Path, folder: Path, rtx_gpu: None
) -> None:
    """The stand-in's profiles take 2 to 4 and 6 to 8 images; no number of images is refused."""
    plan = fake_rtx.write_rtx_plan(tmp_path / "toy.plan", _with_preprocessing(toy()))
    result = invoke("predict", plan, folder, "--batch-size", batch)
    assert result.exit_code == 0, result.output
    assert result.stdout.count(".png") == 6


def test_images_outside_the_profiles(invoke: Invoke, tmp_path: Path, folder: Path, rtx_gpu: None) -> None:
    plan = fake_rtx.write_rtx_plan(tmp_path / "toy.plan", _with_preprocessing(toy()))
    result = invoke("predict", plan, folder, "--preprocessing", "cifar10")
    is_one_sentence(result, "images are 32x32; this file takes only 8x8")
    result = invoke("bench", plan, "--image-size", "12")
    is_one_sentence(result, "images of different sizes: 12 (--image-size), 8")


def _with_preprocessing(model: onnx.ModelProto) -> onnx.ModelProto:
    (entry,) = model.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), "preprocessing": PREPROCESSING.to_dict()})
    return model


def _edit(plan: Path, **changes: Any) -> None:
    beside = plan.with_suffix(".json")
    beside.write_text(json.dumps({**json.loads(beside.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
