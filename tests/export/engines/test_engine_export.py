"""The plan, the document beside it, and that neither is there when something went wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import aps_deploy
from aps_deploy.errors import ApsError, InputError
from aps_deploy.export import onnx_export
from aps_deploy.export.engines import engine_export as module
from aps_deploy.export.engines.building import BuiltEngine
from aps_deploy.export.engines.engine_export import EngineArtifact, export_engine
from aps_deploy.export.engines.profiles import Profile
from aps_deploy.export.engines.settings import EngineSettings
from aps_deploy.export.forms import PolyphaseForm
from aps_deploy.files import sha256_of
from aps_deploy.runtimes.metadata import ModelMetadata
from aps_deploy.runtimes.sidecar import check_sidecar
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit
from tests.export.engines.fake_tensorrt import GPU, fake_toolkit
from tests.export.engines.toys import CLASSES, toy, write_toy

RTX = EngineSettings("trt-rtx")

Build = Callable[..., BuiltEngine]


@pytest.fixture
def built(half_engine: BuiltEngine, monkeypatch: pytest.MonkeyPatch) -> list[EngineSettings]:
    """Take the engine built before instead of compiling again; each use leaves its settings in the list."""
    uses: list[EngineSettings] = []

    def build(content: bytes, settings: EngineSettings, *_: Any, **__: Any) -> BuiltEngine:
        uses.append(settings)
        return dataclasses.replace(half_engine, settings=settings)

    monkeypatch.setattr(module, "build_engine", build)
    return uses


@pytest.fixture(scope="module")
def real(rtx: Toolkit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EngineArtifact]:
    """An ONNX file and the plan compiled from it, with the document, in one folder."""
    folder = tmp_path_factory.mktemp("engine")
    source = write_toy(folder / "toy.onnx", "fp16")
    return source, export_engine(source, folder / "toy.plan", dataclasses.replace(RTX, profiles=(Profile((1, 2, 4)),)))


def test_the_document_describes_the_plan(real: tuple[Path, EngineArtifact], rtx: Toolkit) -> None:
    source, artifact = real
    document = json.loads(artifact.sidecar_path.read_text(encoding="utf-8"))
    assert document == artifact.document == check_sidecar(artifact.path)
    assert document["file"] == "toy.plan"
    assert document["sha256"] == artifact.sha256 == sha256_of(artifact.path)
    assert document["onnx_sha256"] == sha256_of(source)
    assert document["checkpoint_sha256"] == "0" * 64
    assert document["layer_precisions"] == {"fp16": 2, "fp32": 1}
    assert document["tools"] == {"aps_deploy": aps_deploy.__version__, "tensorrt_rtx": rtx.version}
    engine = document["engine"]
    assert engine["version"] == rtx.version
    assert engine["gpu"] == (None if rtx.gpu is None else rtx.gpu.to_dict())
    assert engine["profiles"] == [{"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}]
    assert engine["precision"]["precision"] == "fp16"
    assert engine["precision"]["by_layer"] == {"first/Conv": "fp16", "second/Conv": "fp16", "fc/Gemm": "fp32"}
    assert document["tensors"] == {
        "inputs": [{"name": "images", "type": "float32", "shape": [-1, 3, 8, 8]}],
        "outputs": [
            {"name": "logits", "type": "float32", "shape": [-1, 3]},
            {"name": "polyphase_indices", "type": "int64", "shape": [-1, 1]},
        ],
    }
    assert "types" not in engine
    assert engine["settings"]["tf32"] is False and engine["settings"]["distributive_independence"] is True
    metadata = ModelMetadata.from_dict(document["metadata"])
    assert metadata == ModelMetadata.from_onnx(source)
    assert metadata.class_names == CLASSES
    assert not artifact.from_cache


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("form", "changes", "seen"),
    [
        ("where", {}, "as `where`, which takes more kernels"),
        ("gather", {}, "as `gather`, which takes more kernels"),
        ("custom-op", {}, r"as operators for CPU kernels, .* \(plugins compute `plugin`\), which takes more kernels"),
        ("one-pass", {}, None),
        ("plugin", {}, None),
        ("where", {"selection": "float"}, None),
        ("where", {"selection": None, "selection_layers": [], "selections": []}, None),
        # A file for TensorRT 8, whose one form it is.
        ("where", {"selections": [{"layer": "pool", "index": "i", "scores": "s", "limb_bits": 10}]}, None),
    ],
)
def test_a_file_in_another_form_is_compiled_and_the_form_with_fewer_kernels_named(
    form: PolyphaseForm, changes: dict[str, Any], seen: str | None, tmp_path: Path
) -> None:
    source = write_toy(tmp_path / "toy.onnx", "fp16", form, **changes)
    warnings = export_engine(source, tmp_path / "toy.plan", RTX).warnings
    if seen is None:
        assert warnings == ()
    else:
        (warning,) = warnings
        assert re.search(rf"^toy.onnx states its selections {seen} .* with --polyphase one-pass", warning)


def test_the_plan_is_tensorrts_own_and_read_by_it_alone(real: tuple[Path, EngineArtifact]) -> None:
    """In a fresh process with nothing of ours: its header is sound and of this version, damaged ones are not.

    Without a GPU that is all: loading an engine asks for the driver first.
    """
    code = """
        import sys, tensorrt_rtx as trt
        plan = open(sys.argv[1], "rb").read()
        runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
        flaws = trt.EngineInvalidityDiagnostics
        bad = int(flaws.MALFORMED_ENGINE) | int(flaws.VERSION_MISMATCH)
        answers = [bool(runtime.get_engine_validity(each)[1] & bad) for each in (plan, b"x" + plan[1:], b"")]
        # TensorRT's own logger prints on the same stream.
        print("\\n", *answers, "aps_deploy" in sys.modules)
    """
    assert _alone(code, real[1].path).split() == ["False", "True", "True", "False"]


LOADED_ALONE = """
    import hashlib, json, sys, tensorrt_rtx as trt

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.errors = []
        def log(self, severity, text):
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(text)

    plan = open(sys.argv[1], "rb").read()
    document = json.load(open(sys.argv[1].replace(".plan", ".json")))
    logger = Logger()
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    found = None
    if engine is not None:
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        shapes = map(list, engine.get_tensor_profile_shape(inputs[0], 0))
        profiles = [dict(zip(("min", "opt", "max"), shapes))]
        found = {"inputs": inputs, "outputs": sorted(set(names) - set(inputs)), "profiles": profiles}
    print()
    print(json.dumps({
        "sha256": hashlib.sha256(plan).hexdigest() == document["sha256"],
        "version": document["engine"]["version"] == trt.__version__,
        "found": found,
        "errors": logger.errors,
        "ours": sorted(name for name in sys.modules if name.startswith("aps_deploy")),
    }))
"""


def test_the_plan_with_its_document_is_loaded_by_tensorrt_alone(
    real: tuple[Path, EngineArtifact], rtx: Toolkit
) -> None:
    """In a fresh process with nothing of ours; without a GPU, what stops it is the missing driver and nothing else."""
    said = json.loads(_alone(LOADED_ALONE, real[1].path))
    assert said["sha256"] and said["version"] and said["ours"] == []
    if rtx.gpu is None:
        assert said["found"] is None
        assert said["errors"] and all("cudaError 35" in text or "CUDA" in text for text in said["errors"])
        return
    if rtx.gpu.compute_capability not in rtx.compute_capabilities:
        pytest.skip(f"TensorRT for RTX does not run on {rtx.gpu}")
    document = real[1].document
    assert said["found"] == {
        "inputs": [entry["name"] for entry in document["tensors"]["inputs"]],
        "outputs": sorted(entry["name"] for entry in document["tensors"]["outputs"]),
        "profiles": document["engine"]["profiles"],
    }


def _alone(code: str, plan: Path) -> str:
    """The last line that a program prints in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), str(plan)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def test_a_plan_without_weights_names_the_file_that_has_them(
    half_file: Path, built: list[EngineSettings], tmp_path: Path
) -> None:
    whole = export_engine(half_file, tmp_path / "whole.plan", RTX).document
    assert "onnx_file" not in whole and whole["engine"]["has_weights"]
    stripped = export_engine(half_file, tmp_path / "bare.plan", dataclasses.replace(RTX, strip_weights=True)).document
    assert stripped["onnx_file"] == "toy.onnx" and stripped["onnx_sha256"] == sha256_of(half_file)
    assert not stripped["engine"]["has_weights"] and built[-1].refit == "identical"
    with pytest.raises(
        InputError, match=r"leaves the weights in an ONNX file that goes along .*, and net\.safetensors is"
    ):
        export_engine("net.safetensors", tmp_path / "x.plan", dataclasses.replace(RTX, strip_weights=True))


@pytest.mark.usefixtures("built")
def test_a_checkpoint_is_exported_in_one_pass_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forms: list[str] = []

    def export(checkpoint: str, path: Path, *, polyphase: str) -> types.SimpleNamespace:
        forms.append(polyphase)
        return types.SimpleNamespace(path=write_toy(path, "fp16"), warnings=(checkpoint,))

    monkeypatch.setattr(onnx_export, "export_checkpoint", export)
    # Of the export alone: no advice on a form that the user did not choose, or chose in this very command.
    assert export_engine("net.safetensors", tmp_path / "toy.plan", RTX).warnings == ("net.safetensors",)
    export_engine("net.safetensors", tmp_path / "toy.plan", RTX, polyphase="gather")
    assert forms == ["one-pass", "gather"]


def test_an_engine_found_in_the_cache_is_not_built_again(
    half_file: Path, built: list[EngineSettings], tmp_path: Path
) -> None:
    cache = tmp_path / "engines"
    first = export_engine(half_file, tmp_path / "first.plan", RTX, cache=cache)
    second = export_engine(half_file, tmp_path / "second.plan", RTX, cache=cache)
    assert [first.from_cache, second.from_cache, len(built)] == [False, True, 1]
    assert second.path.read_bytes() == first.path.read_bytes()
    assert {**first.document, "file": "second.plan"} == second.document == check_sidecar(second.path)
    third = export_engine(half_file, tmp_path / "third.plan", dataclasses.replace(RTX, tf32=True), cache=cache)
    assert not third.from_cache and built[-1].tf32


def test_a_damaged_entry_of_the_cache_is_built_again(
    half_file: Path, built: list[EngineSettings], tmp_path: Path
) -> None:
    cache, output = tmp_path / "engines", tmp_path / "toy.plan"
    plan = export_engine(half_file, output, RTX, cache=cache).path.read_bytes()
    for damage in (
        lambda: next(cache.glob("*.plan")).write_bytes(plan[:-1]),
        lambda: next(cache.glob("*.json")).write_text("no JSON"),
        lambda: next(cache.glob("*.json")).unlink(),
    ):
        damage()
        again = export_engine(half_file, output, RTX, cache=cache)
        assert not again.from_cache and again.path.read_bytes() == plan
    assert len(built) == 4
    assert export_engine(half_file, output, RTX, cache=cache).from_cache


def test_a_cache_that_cannot_be_a_folder(half_file: Path, tmp_path: Path) -> None:
    for path in (half_file, tmp_path / "no" / "engines"):
        with pytest.raises(InputError, match=r"--engine-cache .* cannot be a folder"):
            export_engine(half_file, tmp_path / "toy.plan", RTX, cache=path)


def test_an_engine_of_another_precision_is_not_written(tmp_path: Path, built: list[EngineSettings]) -> None:
    source = write_toy(tmp_path / "single.onnx", "fp32")
    with pytest.raises(ApsError, match="first/Conv was asked for in fp32 and computes in fp16"):
        export_engine(source, tmp_path / "toy.plan", RTX, cache=tmp_path / "engines")
    assert len(built) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["single.onnx"]


def test_an_engine_without_a_list_of_kernels_is_not_written(
    half_file: Path, half_engine: BuiltEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "build_engine", lambda *_, **__: dataclasses.replace(half_engine, kernels=()))
    with pytest.raises(ApsError, match="did not list the engine's kernels"):
        export_engine(half_file, tmp_path / "toy.plan", RTX)
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


def test_an_older_plan_stays_where_the_new_one_cannot_be_written(
    half_file: Path, built: list[EngineSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "toy.plan"
    export_engine(half_file, output, RTX)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ApsError, match="the disk is full"):
        export_engine(half_file, output, dataclasses.replace(RTX, tf32=True))
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("built")
def test_what_cannot_be_read_is_told_as_a_warning(
    half_file: Path, half_engine: BuiltEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = tuple(kernel for kernel in half_engine.kernels if "second/Conv" not in kernel.nodes)
    monkeypatch.setattr(module, "build_engine", lambda *_, **__: dataclasses.replace(half_engine, kernels=kernels))
    for cached in (False, True):
        artifact = export_engine(half_file, tmp_path / "toy.plan", RTX, cache=tmp_path / "engines")
        assert artifact.from_cache is cached
        assert len(artifact.warnings) == 2 and "second/Conv" in artifact.warnings[1]
        assert artifact.document["engine"]["precision"]["unread_layers"] == ["second/Conv"]
        assert "warnings" not in artifact.document["engine"]


def test_on_a_gpu_its_name_and_capability_are_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_toolkit", lambda _: None)
    monkeypatch.setattr(module, "load_toolkit", lambda _: fake_toolkit())
    source = write_toy(tmp_path / "toy.onnx", "fp32")
    engine = export_engine(source, tmp_path / "toy.plan", EngineSettings("trt")).document["engine"]
    assert engine["gpu"] == GPU.to_dict() == {"name": "a GPU", "compute_capability": "9.0", "driver": "13.0"}
    assert engine["precision"]["read_from"] == "engine inspector"
    assert engine["toolkit"] == "trt"


def test_types_are_those_of_the_engine(
    half_file: Path, half_engine: BuiltEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = {**half_engine.types, "logits": "float16"}
    monkeypatch.setattr(module, "build_engine", lambda *_, **__: dataclasses.replace(half_engine, types=types))
    for _ in ("built", "found in the cache"):
        document = export_engine(half_file, tmp_path / "toy.plan", RTX, cache=tmp_path / "engines").document
        assert [entry["type"] for entry in document["tensors"]["outputs"]] == ["float16", "int64"]


def _taking(kind: str) -> onnx.ModelProto:
    """The toy behind a conversion from another type of images."""
    model = toy()
    for node in model.graph.node:
        node.input[:] = ["converted" if name == "images" else name for name in node.input]
    cast = onnx.helper.make_node("Cast", ["images"], ["converted"], name="Cast", to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DataType.Value(kind)
    return model


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is to be loaded or built")


class TestBadInput:
    def test_a_changed_file(self, real: tuple[Path, EngineArtifact], tmp_path: Path) -> None:
        source = write_toy(tmp_path / "toy.onnx", "fp16")
        document = {"file": "toy.onnx", "sha256": hashlib.sha256(b"before").hexdigest()}
        (tmp_path / "toy.json").write_text(json.dumps(document))
        with pytest.raises(InputError, match=r"toy\.onnx changed since it was exported"):
            export_engine(source, tmp_path / "other.plan", RTX)

    @pytest.mark.parametrize(
        ("content", "words"), [(None, "does not exist"), (b"", "holds no graph"), (b"\xff\xff", "not a readable ONNX")]
    )
    def test_no_file(self, content: bytes | None, words: str, tmp_path: Path) -> None:
        source = tmp_path / "toy.onnx"
        if content is not None:
            source.write_bytes(content)
        with pytest.raises(InputError, match=words):
            export_engine(source, tmp_path / "toy.plan", RTX)
        assert not (tmp_path / "toy.plan").exists()

    @pytest.mark.parametrize(("kind", "words"), [("DOUBLE", "double"), ("UINT8", "uint8"), ("BFLOAT16", "bfloat16")])
    def test_images_of_another_type(
        self, kind: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """TensorRT compiles some of them, the first as its float32 twin; no session runs the others."""
        monkeypatch.setattr(module, "load_toolkit", _never)
        onnx.save(_taking(kind), tmp_path / "toy.onnx")
        with pytest.raises(InputError, match=rf"toy\.onnx takes {words} images \(images\), and engines run here on"):
            export_engine(tmp_path / "toy.onnx", tmp_path / "toy.plan", RTX)
        assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]

    def test_weights_in_other_files(self, tmp_path: Path) -> None:
        source = tmp_path / "toy.onnx"
        model = toy("fp16")
        onnx.save(model, source, save_as_external_data=True, size_threshold=0, location="weights")
        with pytest.raises(InputError, match="keeps its weights in other files"):
            export_engine(source, tmp_path / "toy.plan", RTX)

    @pytest.mark.parametrize(
        ("output", "words"),
        [("toy.engine", r"an engine's name ends in \.plan; use .*toy\.plan"), ("no/toy.plan", "does not exist")],
    )
    def test_no_place_for_the_plan(self, output: str, words: str, half_file: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=words):
            export_engine(half_file, tmp_path / output, RTX)
