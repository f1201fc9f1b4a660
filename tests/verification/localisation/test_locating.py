from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from aps_deploy.verification import verify
from aps_deploy.verification.gates import resolve_gates
from aps_deploy.verification.layer_precision import LayerPrecision
from aps_deploy.verification.localisation.advice import LayerError
from aps_deploy.verification.localisation.file_layers import FileLayer
from aps_deploy.verification.localisation.locating import (
    Localisation,
    located,
    match_layers,
    nowhere,
    relative_error,
    relative_limit,
)
from aps_deploy.verification.localisation.reference_layers import ModuleOutputs
from aps_deploy.verification.schema import certificate_schema, first_fault
from tests.verification import sabotage

Images = npt.NDArray[np.float32]


def _error(name: str, own: float, accumulated: float, precision: str = "fp16", *, share: float = 0.01) -> LayerError:
    return LayerError(name, name, precision, own, accumulated, own > share)


def test_relative_errors_have_no_unit_and_fail_without_a_number() -> None:
    reference = np.array([3.0, 4.0], np.float32)
    assert relative_error(reference, reference) == 0
    assert relative_error(reference * 1000 + np.float32([0.0, 5.0]), reference * 1000) == pytest.approx(1e-3)
    assert relative_error(np.zeros(2), np.zeros(2)) == 0
    assert relative_error(np.ones(2), np.zeros(2)) == math.inf
    assert math.isnan(relative_error(np.array([math.nan, 1.0]), reference))


@pytest.mark.parametrize(
    ("precision", "gates", "limit"),
    [
        ("fp32", {}, 1e-3),
        ("fp16", {}, 1e-2),
        ("int8", {}, math.sqrt(0.02)),
        ("int8", {"parity_cosine": 0.5}, 1.0),
        ("int8", {"parity_cosine": None}, 0.05),
        ("int8", {"parity_rtol": 0.3}, 0.3),
    ],
)
def test_the_limit_is_that_of_the_parity_gates(precision: str, gates: dict[str, float | None], limit: float) -> None:
    assert relative_limit(resolve_gates(precision, "onnxruntime", "cpu", gates)) == pytest.approx(limit)


def _file_layer(name: str, module: str, shape: tuple[int, ...] = (1, 2, 2, 2)) -> FileLayer:
    return FileLayer(LayerPrecision(name, "Conv", "fp32", False, ""), module, np.zeros(shape), np.zeros(shape))


MODULES = ModuleOutputs(
    {name: np.zeros((1, 2, 2, 2)) for name in ("conv1", "bn1", "act", "pool.blur", "conv2")},
    {"bn1": "conv1"},
    frozenset({"conv1", "conv2", "pool.blur"}),
)


def test_layers_are_matched_by_name_and_else_by_order() -> None:
    assert MODULES.layers() == ("bn1", "pool.blur", "conv2")
    named = [_file_layer("bn1/Conv", "bn1"), _file_layer("other/Conv", "other")]
    assert [module for _, module in match_layers(named, MODULES)] == ["bn1"]
    nameless = [_file_layer(f"value_{number}", "") for number in range(3)]
    assert [module for _, module in match_layers(nameless, MODULES)] == ["bn1", "pool.blur", "conv2"]
    assert match_layers(nameless[:2], MODULES) == ()
    assert match_layers([_file_layer("bn1/Conv", "bn1", (1, 3))], MODULES) == ()


def test_the_result_in_words() -> None:
    layers = (_error("a", 0.001, 0.001), _error("b", 0.5, 0.5))
    beyond = Localisation("b", "b", 0.01, ("b",), layers, (), "")
    assert "first layer beyond its share of the error: b, whose own relative error is 0.5 (share 0.01)" in beyond.words
    assert beyond.words.endswith("export again with --keep-fp32 b")
    only_narrow = Localisation("b", "b", 0.01, ("b", "a"), layers, (), "")
    assert only_narrow.words.endswith("every layer would have to stay in float32: export again with --precision fp32")
    apart = Localisation(None, "b", 0.01, (), layers, (), "")
    assert "what stands before it" in apart.words
    assert nowhere("no graph").words == "no graph"
    checkpoint = located(None, object(), (), object(), np.zeros(1), None, gates={})  # type: ignore[arg-type]
    assert checkpoint.layers == () and "checkpoint" in checkpoint.words


def _swap_channels(model: onnx.ModelProto) -> None:
    weights = sabotage.initializer(model, "layer3.1.conv1.weight")
    values = onnx.numpy_helper.to_array(weights).copy()
    values[[0, 1]] = values[[1, 0]]
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))


def _swap_and_forget_names(model: onnx.ModelProto) -> None:
    _swap_channels(model)
    for node in model.graph.node:
        node.name = ""


@pytest.mark.parametrize("edit", [_swap_channels, _swap_and_forget_names])
def test_the_layer_with_wrong_weights_is_named(
    edit: sabotage.Edit, exports: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    file = sabotage.write_sabotaged(exports["where"], tmp_path / "net.onnx", edit)
    certificate = verify(file, exports["checkpoint"], images[:2], shifts=1)
    document = certificate.to_dict()
    assert first_fault(document, certificate_schema()) is None
    found = document["details"]["localisation"]
    modules = {layer["layer"]: layer["module"] for layer in found["layers"]}
    assert modules[found["first"]] == "layer3.1.bn1"
    # Every other layer is as good as before, those behind it too: each gets the file's own map.
    assert [layer["module"] for layer in found["layers"] if layer["is_beyond"]] == ["layer3.1.bn1"]
    assert found["keep_fp32"] == []
    assert f"first layer beyond its share of the error: {found['first']}" in certificate.check("parity_excess").reason


def test_permuted_components_are_a_fault_between_layers(
    exports: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    file = sabotage.write_sabotaged(exports["where"], tmp_path / "net.onnx", sabotage.permuted_components)
    certificate = verify(file, exports["checkpoint"], images[:4], shifts=1)
    found = certificate.details["localisation"]
    assert found["first"] is None
    assert found["first_apart"] is not None
    assert any("what stands before it" in check.reason for check in certificate.failed_checks)


def test_the_layers_that_cost_most_are_named_to_be_kept(precise: dict[str, Path], images: Images) -> None:
    # Stricter than int8 meets with all its layers: those that cost most are to be kept.
    gates = {"parity_cosine": 0.998}
    certificate = verify(precise["int8"], precise["checkpoint"], images[:2], shifts=1, gates=gates)
    found = certificate.details["localisation"]
    assert found["keep_fp32"]
    own = {layer["layer"]: layer["own_error"] for layer in found["layers"]}
    kept = [own[name] for name in found["keep_fp32"]]
    assert kept == sorted(kept, reverse=True)
    assert max(own.values()) == kept[0]
    assert len(kept) < len(own)
    assert "--keep-fp32" in certificate.check("parity_cosine").reason
