"""Files for TensorRT 8 under `verify`: they pass as they are, and their 32-bit sums only where nothing can overflow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from aps_deploy.export import Artifact
from aps_deploy.runtimes import ModelMetadata
from aps_deploy.runtimes.onnx_files import load_onnx
from aps_deploy.verification import verify
from aps_deploy.verification.graph import GraphView
from aps_deploy.verification.instrument import load_inlined, measure_scores, whole_scores
from aps_deploy.verification.probe.probing import probe_file
from aps_deploy.verification.score_names import located_selections
from aps_deploy.verification.static_check import check_graph

Images = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def legacy(
    exports: dict[str, Path], export_again: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    target = tmp_path_factory.mktemp("legacy") / "legacy.onnx"
    return export_again(exports["checkpoint"], target, target="tensorrt-8").path


def _findings(model: onnx.ModelProto, file: Path) -> list[tuple[str, str]]:
    metadata = ModelMetadata.from_onnx(file)
    return [(finding.rule, finding.message) for finding in check_graph(model, metadata, metadata)]


def test_it_passes_every_gate(legacy: Path, exports: dict[str, Path], images: Images) -> None:
    certificate = verify(legacy, exports["checkpoint"], images)
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    assert certificate.check("static_findings").status == "passed"
    assert certificate.check("identical_shifts").status == "passed"
    assert certificate.counts["agreed"] + certificate.counts["tied"] == 16
    current = verify(exports["where"], exports["checkpoint"], images)
    # The same sums, so the same errors of the same scores, and the same logits.
    assert certificate.details["selection"] == current.details["selection"]
    assert certificate.details["parity"] == current.details["parity"]


def test_the_reference_evaluator_passes_too(legacy: Path, exports: dict[str, Path], images: Images) -> None:
    certificate = verify(legacy, exports["checkpoint"], images[:2], shifts=2, runtime="onnx-reference")
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]


def test_the_probe_finds_nothing(legacy: Path, images: Images) -> None:
    assert probe_file(legacy, images[:1], runtime="onnxruntime").findings == ()


def test_scores_are_put_together_from_their_limbs(legacy: Path, exports: dict[str, Path], images: Images) -> None:
    files = (legacy, exports["where"])
    measured = [measure_scores(load_inlined(file), ModelMetadata.from_onnx(file), images) for file in files]
    for ours, theirs in zip(measured[0].scores, measured[1].scores, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.max() > 2**31
    np.testing.assert_array_equal(measured[0].indices, measured[1].indices)


def test_what_are_no_limbs_stays_as_it_is() -> None:
    whole = np.array([[1, 2, 3, 4, 5, 6, 7, 8]], np.int32)
    expected = [[1 * 2**15 + 5, 2 * 2**15 + 6, 3 * 2**15 + 7, 4 * 2**15 + 8]]
    np.testing.assert_array_equal(whole_scores(whole, 15), expected)
    for values, bits in ((whole, None), (whole[:, :7], 15), (whole.astype(np.float32), 15), (whole[0], 15)):
        kept = whole_scores(values, bits)
        assert kept.dtype == np.float64
        np.testing.assert_array_equal(kept, values)


def test_scores_that_were_renamed_are_found(legacy: Path) -> None:
    model, metadata = load_inlined(legacy), ModelMetadata.from_onnx(legacy)
    renamed = dataclasses.replace(
        metadata,
        selections=tuple(dataclasses.replace(entry, scores=f"gone {entry.scores}") for entry in metadata.selections),
    )
    assert located_selections(model, renamed) == metadata


def test_sums_in_32_bits_that_are_not_cut_into_limbs_are_found(exports: dict[str, Path]) -> None:
    """What a converter does that turns every 64-bit number into one of 32."""
    model = load_onnx(exports["where"])
    for node in model.graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.INT64:
            node.attribute[0].i = TensorProto.INT32
    findings = _findings(model, exports["where"])
    assert ("selection-precision", "ReduceSum of the selection works in int32, which may overflow") in findings
    assert ("pooling", "ReduceSum of the pooling works in int32, which may overflow") in findings


def test_limbs_that_are_too_wide_for_the_map_are_found(legacy: Path) -> None:
    model = load_onnx(legacy)
    assert _findings(model, legacy) == []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT32 and numpy_helper.to_array(tensor).tolist() == 2**15:
            # 64 pixels of the first selection's components and of the last map, times 2**26, are beyond 2**31.
            tensor.CopyFrom(numpy_helper.from_array(np.array(2**26, np.int32), tensor.name))
    rules = {rule for rule, message in _findings(model, legacy) if "overflow" in message}
    assert "selection-precision" in rules


def test_an_integer_that_is_cut_off_and_not_rounded_is_found(legacy: Path) -> None:
    model = load_onnx(legacy)
    graph = GraphView(model)
    for node in model.graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.INT32:
            maker = graph.maker(node.input[0])
            assert maker is not None and maker.op_type == "Round"
            node.input[0] = maker.input[0]
    findings = _findings(model, legacy)
    assert ("selection-precision", "casts a value of the selection to int32") in findings
