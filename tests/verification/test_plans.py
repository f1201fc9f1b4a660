"""Engines through `verify`, `predict` and `evaluate`: what stands beside a plan, and what a plan cannot tell.

The engine is the stand-in of `tests/runtimes/tensorrt`, which computes in ONNX Runtime: what is tested is the way of a
plan through the commands, not TensorRT.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from aps_deploy.cli import app
from aps_deploy.errors import InputError
from aps_deploy.export.engines import EngineSettings, export_engine
from aps_deploy.runtimes.tensorrt.toolkit import EngineKind
from aps_deploy.verification import Certificate
from aps_deploy.verification.every_runtime import verify_every_runtime
from aps_deploy.verification.paths import verify_path
from aps_deploy.verification.plan_evidence import plan_evidence
from aps_deploy.verification.preparing import facts_of
from aps_deploy.verification.probe.probing import check_probed_kind
from tests.gpus import needs_torch_cuda, toolkit_here
from tests.runtimes.tensorrt.fake_cuda import FakeEvent, install_fake_cuda
from tests.runtimes.tensorrt.fake_engine import fake_toolkit, write_plan
from tests.runtimes.tensorrt.fake_rtx import fake_rtx, write_stripped_plan

FP32 = {"precision": "fp32", "layers": {"fp32": 26}, "unread_layers": [], "read_from": "engine inspector"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(4):
        target = root / f"class {number % 2}"
        target.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(target / f"{number}.png")
    return root


@pytest.fixture
def plan(exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine beside the ONNX file it was compiled from, where there is TensorRT and a GPU, as far as that goes."""
    install_fake_cuda(monkeypatch)
    monkeypatch.setattr("aps_deploy.runtimes.tensorrt_session.load_toolkit", lambda kind, **_: fake_toolkit())
    model = onnx.load(exports["where"])
    shutil.copy(exports["where"], tmp_path / "net.onnx")
    written = write_plan(tmp_path / "net.plan", model, precision=FP32)
    _edit(written, onnx_sha256=_sha256(tmp_path / "net.onnx"))
    return written


def _sha256(path: Path) -> str:
    from aps_deploy.files import sha256_of

    return sha256_of(path)


def _edit(plan: Path, **changes: Any) -> None:
    beside = plan.with_suffix(".json")
    beside.write_text(json.dumps({**json.loads(beside.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def _with_precision(plan: Path, **read: Any) -> None:
    engine = json.loads(plan.with_suffix(".json").read_text(encoding="utf-8"))["engine"]
    _edit(plan, engine={**engine, "precision": {**FP32, **read} if read else None})


def _verify(plan: Path, exports: dict[str, Path], folder: Path, **arguments: Any) -> Certificate:
    arguments = {"shifts": 2, "gates": {"accuracy_drop": None}, **arguments}
    return verify_path(plan, exports["checkpoint"], folder, **arguments)


def test_a_plan_is_verified_against_its_checkpoint(plan: Path, exports: dict[str, Path], folder: Path) -> None:
    certificate = _verify(plan, exports, folder, report=plan.with_suffix(".html"))
    assert certificate.passed, certificate.failed_checks
    assert certificate.environment["runtime"] == "tensorrt"
    assert certificate.environment["device"] == "cuda"
    assert certificate.file["name"] == "net.plan" and certificate.file["sha256"] == _sha256(plan)
    status = {check.name: check.status for check in certificate.checks}
    for name in ("unexplained_selections", "index_range", "top1_consistency", "static_findings", "missing_outputs",
                 "other_precision_layers", "declared_differently", "unaudited_layers"):  # fmt: skip
        assert status[name] == "passed", name
    # A GPU promises no equal bits.
    assert status["identical_shifts"] == "reported"
    assert status["at_risk_selections"] == "not_applicable"
    assert certificate.file["precision_found"] == "fp32"
    layers = certificate.details["precision"]["layers"]
    assert len(layers) == 26 and all("engine inspector, at export" in layer["evidence"] for layer in layers)
    assert "TensorRT on" in plan.with_suffix(".html").read_text(encoding="utf-8")


def test_without_the_onnx_file_the_document_tells_what_it_can(
    plan: Path, exports: dict[str, Path], folder: Path
) -> None:
    plan.with_suffix(".onnx").unlink()
    certificate = _verify(plan, exports, folder)
    assert certificate.passed, certificate.failed_checks
    checks = {check.name: check for check in certificate.checks}
    assert checks["static_findings"].status == "not_applicable"
    assert "no ONNX file beside it is the one it was compiled from" in checks["static_findings"].reason
    assert checks["other_precision_layers"].status == "passed"
    _with_precision(plan)
    checks = {check.name: check for check in _verify(plan, exports, folder).checks}
    assert checks["other_precision_layers"].status == "not_applicable"
    assert "does not say in which precision" in checks["other_precision_layers"].reason


@pytest.mark.parametrize(
    ("layers", "kept", "found", "others"),
    [
        ({"fp16": 19, "fp32": 1}, (), "fp16", 0),
        ({"fp16": 18, "fp32": 2}, (), "mixed", 2),
        ({"fp16": 18, "fp32": 2}, ("layer1/Conv",), "fp16", 0),
        ({"fp32": 20}, (), "fp32", 20),
        ({"fp16": 18, "unread": 1, "fp32": 1}, (), "fp16", 0),
    ],
)
def test_the_counts_of_the_document_are_judged(
    plan: Path, layers: dict[str, int], kept: tuple[str, ...], found: str, others: int
) -> None:
    from aps_deploy.verification.layer_precision import faults_against, file_precision

    plan.with_suffix(".onnx").unlink()
    _with_precision(plan, layers=layers)
    metadata = json.loads(plan.with_suffix(".json").read_text(encoding="utf-8"))["metadata"]
    _edit(plan, metadata={**metadata, "kept_fp32": kept})
    read = plan_evidence(plan).layers
    assert file_precision(read) == found
    assert faults_against(read, "fp16")[0] == others


@pytest.mark.parametrize(
    ("named", "kept", "found", "others"),
    [
        ({"a": "fp16", "b": "fp16", "fc": "fp32"}, (), "fp16", 0),
        ({"a": "fp16", "b": "fp32", "fc": "fp16"}, (), "mixed", 1),  # counted alone, b were taken for the classifier
        ({"a": "fp32", "b": "fp16", "fc": "fp32"}, ("a",), "fp16", 0),
        ({"a": "fp32", "b": "fp16", "fc": "fp32"}, ("b",), "mixed", 2),
        ({"a": "unread", "b": "fp16", "fc": "fp32"}, (), "fp16", 0),
    ],
)
def test_the_layers_that_the_document_names_are_judged(
    plan: Path, named: dict[str, str], kept: tuple[str, ...], found: str, others: int
) -> None:
    from aps_deploy.verification.layer_precision import faults_against, file_precision

    plan.with_suffix(".onnx").unlink()
    _with_precision(plan, layers=dict(Counter(named.values())), by_layer=named, classifier="fc")
    metadata = json.loads(plan.with_suffix(".json").read_text(encoding="utf-8"))["metadata"]
    _edit(plan, metadata={**metadata, "kept_fp32": kept})
    read = plan_evidence(plan).layers
    assert [layer.layer for layer in read] == [name for name, precision in named.items() if precision != "unread"]
    assert file_precision(read) == found
    assert faults_against(read, "fp16")[0] == others


def test_names_that_are_not_as_many_as_are_counted_are_not_believed(plan: Path) -> None:
    plan.with_suffix(".onnx").unlink()
    _with_precision(plan, layers={"fp32": 2}, by_layer={"a": "fp32"}, classifier="a")
    assert [layer.layer for layer in plan_evidence(plan).layers] == [
        "an unnamed layer (fp32 1 of 2)",
        "an unnamed layer (fp32 2 of 2)",
    ]


def test_a_document_that_names_a_layer_otherwise_than_the_onnx_file_is_believed_against_it(plan: Path) -> None:
    layers = plan_evidence(plan).layers
    named = {layer.layer: layer.precision for layer in layers}
    counts = {"fp32": len(named)}
    _with_precision(plan, layers=counts, by_layer=named, classifier=layers[-1].layer)
    assert plan_evidence(plan).layers[0].op_type == "Conv"
    other = {**named, layers[0].layer: "fp16"}
    _with_precision(plan, layers=dict(Counter(other.values())), by_layer=other, classifier=layers[-1].layer)
    assert {layer.layer: layer.precision for layer in plan_evidence(plan).layers} == other


def test_a_document_that_counts_otherwise_than_the_onnx_file_is_believed_against_it(plan: Path) -> None:
    assert {layer.precision for layer in plan_evidence(plan).layers} == {"fp32"}
    _with_precision(plan, layers={"fp16": 25, "fp32": 1})
    assert [layer.precision for layer in plan_evidence(plan).layers].count("fp16") == 25
    # A layer that was not read back is not counted.
    first = plan_evidence(plan).graph
    assert first is not None
    name = next(node.name for node in first.graph.node if node.op_type == "Conv")
    _with_precision(plan, layers={"fp32": 25, "unread": 1}, unread_layers=[name])
    evidence = {layer.layer: layer.evidence for layer in plan_evidence(plan).layers}
    assert "not read back" in evidence.pop(name)
    assert len(evidence) == 25 and not any("not read back" in words for words in evidence.values())


def test_another_precision_than_asked_for_fails(plan: Path, exports: dict[str, Path], folder: Path) -> None:
    certificate = _verify(plan, exports, folder, precision="fp16")
    assert [check.name for check in certificate.failed_checks] == ["other_precision_layers"]


def test_a_wrong_engine_fails_and_says_where_to_look(exports: dict[str, Path], folder: Path, plan: Path) -> None:
    model = onnx.load(exports["where"])
    bias = next(weight for weight in model.graph.initializer if weight.name.endswith("fc.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(1), bias.name))
    wrong = write_plan(plan.with_name("wrong.plan"), model, precision=FP32)
    certificate = _verify(wrong, exports, folder)
    failed = {check.name: check for check in certificate.failed_checks}
    assert "parity_excess" in failed, set(failed)
    assert "an engine does not tell the maps between its layers" in failed["parity_excess"].reason


def test_a_changed_plan_is_refused_and_not_measured(plan: Path, exports: dict[str, Path], folder: Path) -> None:
    plan.write_bytes(plan.read_bytes() + b"\0")
    with pytest.raises(InputError, match="changed since it was exported"):
        _verify(plan, exports, folder)


def test_a_plan_is_neither_probed_nor_a_reference(plan: Path, exports: dict[str, Path], folder: Path) -> None:
    with pytest.raises(InputError, match=r"net.plan is an engine; give the ONNX file it was made from"):
        check_probed_kind(plan)
    with pytest.raises(InputError, match=r"net.plan is an engine, and a reference must be more exact"):
        verify_path(exports["where"], plan, folder)


def test_what_is_known_before_it_is_opened(plan: Path, exports: dict[str, Path]) -> None:
    facts, source = facts_of(plan), facts_of(exports["where"])
    assert (facts.metadata, facts.side, facts.num_classes) == (source.metadata, source.side, source.num_classes)


def test_every_runtime_of_a_plan(
    plan: Path, exports: dict[str, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aps_deploy.verification.every_runtime.why_not", _only("tensorrt-cuda", "tensorrt-rtx-cuda"))
    results = verify_every_runtime(plan, exports["checkpoint"], folder, shifts=2, gates={"accuracy_drop": None})
    told = {result.place.label: result.skipped for result in results}
    assert told["tensorrt-cuda"] is None
    assert "which TensorRT for RTX does not run" in str(told["tensorrt-rtx-cuda"])
    assert (tmp_path / "net.tensorrt-cuda.certificate.json").is_file()


@pytest.mark.gpu
@needs_torch_cuda
@pytest.mark.parametrize("kind", ["trt", "trt-rtx"])
def test_a_real_engine_is_certified(kind: EngineKind, exports: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    toolkit = toolkit_here(kind)
    source = Path(shutil.copy(exports["where"], tmp_path / "net.onnx"))
    built = export_engine(source, tmp_path / "net.plan", EngineSettings(kind))
    certificate = _verify(built.path, exports, folder)
    assert certificate.environment["runtime"] == toolkit.info.runtime
    assert certificate.passed, certificate.failed_checks


def _only(*labels: str) -> Any:
    return lambda info, device, file: None if f"{info.name}-{device}" in labels else "not here"


def test_predict_and_evaluate_take_a_plan(plan: Path, exports: dict[str, Path], folder: Path) -> None:
    runner = CliRunner()
    told = [runner.invoke(app, ["predict", str(model), str(folder), "--json"]) for model in (plan, exports["where"])]
    assert told[0].exit_code == 0, told[0].output
    ours, theirs = (json.loads(result.stdout) for result in told)
    assert ours["runtime"] == "tensorrt" and ours["predictions"] == theirs["predictions"]
    result = runner.invoke(app, ["evaluate", str(plan), "--data", str(folder)])
    assert result.exit_code == 0, result.output
    assert "tensorrt on cuda" in " ".join(result.stdout.split())


@pytest.fixture
def stripped(exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine of TensorRT for RTX without weights, and under another name the ONNX file that has them."""
    install_fake_cuda(monkeypatch)
    monkeypatch.setattr("aps_deploy.runtimes.tensorrt_session.load_toolkit", lambda kind, **_: fake_rtx())
    source = Path(shutil.copy(exports["where"], tmp_path / "weights.onnx"))
    written = write_stripped_plan(tmp_path / "net.plan", source)
    _with_precision(written, **FP32)
    return written


def test_a_plan_without_weights_runs_with_those_of_its_onnx_file(
    stripped: Path, exports: dict[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = CliRunner()
    certificate = _verify(stripped, exports, folder)
    assert certificate.passed, certificate.failed_checks
    assert certificate.environment["runtime"] == "tensorrt-rtx"
    layers = certificate.details["precision"]["layers"]
    assert layers and all("in weights.onnx; engine inspector, at export" in layer["evidence"] for layer in layers)
    told = [
        runner.invoke(app, ["predict", str(model), str(folder), "--json"]) for model in (stripped, exports["where"])
    ]
    assert [result.exit_code for result in told] == [0, 0], told[0].output
    ours, theirs = (json.loads(result.stdout) for result in told)
    assert ours["runtime"] == "tensorrt-rtx" and ours["predictions"] == theirs["predictions"]
    monkeypatch.setattr(FakeEvent, "elapsed_time", lambda start, end: 2.0)
    result = runner.invoke(app, ["bench", str(stripped), "--rounds", "1", "--batch-size", "3", "--json"])
    assert result.exit_code == 0, result.output
    (measured,) = json.loads(result.stdout)["measured"]
    assert (measured["clock"], measured["p50_ms"], measured["images_per_s"]) == ("CUDA events", 2.0, 1500.0)
