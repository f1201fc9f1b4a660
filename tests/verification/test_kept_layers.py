"""A file may keep layers in float32, and must then declare which."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from aps_deploy.runtimes import ModelMetadata
from aps_deploy.runtimes.sidecar import sidecar_path
from aps_deploy.verification.declaration import kept_declared_differently
from aps_deploy.verification.layer_precision import (
    LayerPrecision,
    faults_against,
    file_precision,
    other_layers,
    with_kept,
)

LAYERS = (
    LayerPrecision("first", "Conv", "fp16", False, "fp16 operands"),
    LayerPrecision("second", "Conv", "fp32", False, "fp32 operands"),
    LayerPrecision("third", "Conv", "fp16", False, "fp16 operands"),
    LayerPrecision("head", "Gemm", "fp32", True, "fp32 operands"),
)


def test_a_declared_layer_is_no_fault_and_an_undeclared_one_is() -> None:
    assert file_precision(LAYERS) == "mixed"
    assert [layer.layer for layer in other_layers(LAYERS, "fp16")] == ["second"]
    declared = with_kept(LAYERS, ["second"])
    assert file_precision(declared) == "fp16"
    assert faults_against(declared, "fp16") == (0, "")


def test_a_declared_layer_must_be_float32() -> None:
    declared = with_kept(LAYERS, ["second", "third"])
    assert file_precision(declared) == "fp16"
    count, words = faults_against(declared, "fp16")
    assert count == 1
    assert words == "third computes in fp16 (fp16 operands), but is declared as kept in fp32"


def test_kept_layers_do_not_loosen_what_the_others_must_be() -> None:
    others = (*LAYERS, LayerPrecision("fourth", "Conv", "fp32", False, "fp32 operands"))
    declared = with_kept(others, ["second"])
    assert file_precision(declared) == "mixed"
    assert [layer.layer for layer in other_layers(declared, "fp16")] == ["fourth"]


def test_a_file_that_keeps_every_layer_has_no_other_precision() -> None:
    wide = tuple(dataclasses.replace(layer, precision="fp32") for layer in LAYERS)
    declared = with_kept(wide, ["first", "second", "third"])
    assert file_precision(declared) == "fp32"
    assert faults_against(declared, "fp16") == (4, "every layer is kept in float32")
    assert faults_against(declared, "fp32") == (0, "")


@pytest.mark.parametrize(
    ("kept", "beside", "words"),
    [
        (("second",), ("second",), None),
        ((), None, None),
        (("second",), None, None),
        (("fifth",), ("fifth",), "fifth is declared as kept in fp32, and the graph has no such layer"),
        (("second",), (), "the document beside the file says that the layers kept in fp32 are none, not second"),
        ((), ("second",), "the document beside the file says that the layers kept in fp32 are second, not none"),
    ],
)
def test_graph_file_and_document_must_name_the_same_layers(
    kept: tuple[str, ...], beside: tuple[str, ...] | None, words: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "net.onnx"
    if beside is not None:
        document = {"file": "net.onnx", "sha256": "aa", "metadata": {"precision": "fp16", "kept_fp32": list(beside)}}
        sidecar_path(file).write_text(json.dumps(document), encoding="utf-8")
    found = kept_declared_differently(file, ModelMetadata(kept_fp32=kept), LAYERS)
    assert found == (() if words is None else (words,))


def test_the_declaration_travels_in_the_metadata() -> None:
    metadata = ModelMetadata(architecture="resnet20", precision="fp16", kept_fp32=("a/Conv", "b/Conv"))
    assert ModelMetadata.from_json(metadata.to_json()).kept_fp32 == ("a/Conv", "b/Conv")
