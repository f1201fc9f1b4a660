"""A file that computes what the reference computes passes, however it is written and however it is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from aps_deploy.export import Artifact
from aps_deploy.runtimes import onnxruntime_session
from aps_deploy.verification import Certificate, verify
from tests.verification import faithful, faithful_layers
from tests.verification.conftest import FORMS, make_images
from tests.verification.faithful import Rewrite
from tests.verification.verdicts import assert_passed, failed_gates

Images = npt.NDArray[np.float32]

# The file that is rewritten, and how.
REWRITINGS: list[tuple[str, Rewrite]] = [
    *((form, faithful.unchanged) for form in FORMS),
    ("fp16", faithful.unchanged),
    ("int8", faithful.unchanged),
    ("custom-op", faithful.inlined),
    *((form, faithful.bare) for form in FORMS),
    ("where", faithful.annotated),
    ("where", faithful.shapes_inferred),
    ("where", faithful.in_another_order),
    ("gather", faithful.in_another_order),
    ("where", faithful.renamed_nodes),
    ("where", faithful.renamed_values),
    ("gather", faithful.renamed_everything),
    ("where", faithful.constants_as_nodes),
    ("where", faithful.constants_as_attributes),
    ("gather", faithful.typed_storage),
    ("where", faithful.with_batch(1)),
    ("custom-op", faithful.with_batch(4)),
    ("where", faithful.nameless_sizes),
    ("where", faithful.one_more_output),
    ("where", faithful.with_identities),
    ("gather", faithful.with_identities),
    ("where", faithful.converted_to(21)),
    ("where", faithful.slimmed),
    ("gather", faithful.slimmed),
    ("one-pass", faithful.slimmed),
    ("one-pass", faithful.renamed_everything),
    ("fp16", faithful.slimmed),
    ("int8", faithful.slimmed),
    ("where", faithful.folded_by_onnxscript),
    ("custom-op", faithful.folded_by_onnxscript),
    ("where", faithful_layers.unfolded_batch_norm),
    ("gather", faithful_layers.bias_as_addition),
    ("where", faithful_layers.classifier_as_product),
    ("where", faithful_layers.relu_as_maximum),
    ("where", faithful_layers.padding_by_slices),
    ("int8", faithful_layers.padding_by_slices),
    ("where", faithful_layers.permuted_channels),
    ("where", faithful_layers.swapped_summands),
    ("where", faithful_layers.dropout_left_in),
]
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED")


def _verify(file: Path, source: str, files: dict[str, Path], images: Images) -> Certificate:
    return verify(file, files["calm" if source in ("fp16", "int8") else "checkpoint"], images[:4], shifts=3)


@pytest.fixture(scope="module")
def files(exports: dict[str, Path], precise: dict[str, Path]) -> dict[str, Path]:
    """The four forms of a network with its ``checkpoint``, and the narrow files of another, ``calm``."""
    return {**precise, **exports, "calm": precise["checkpoint"]}


def test_there_are_enough_of_them() -> None:
    assert len(set(REWRITINGS)) == len(REWRITINGS) >= 25


@pytest.mark.parametrize(
    ("source", "rewrite"),
    REWRITINGS,
    ids=[f"{source}-{rewrite.__name__}-{number}" for number, (source, rewrite) in enumerate(REWRITINGS)],
)
def test_a_faithful_rewriting_passes(
    source: str, rewrite: Rewrite, files: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    file = tmp_path / "rewritten.onnx"
    onnx.save(rewrite(onnx.load(files[source])), file)
    assert_passed(_verify(file, source, files, images))


def test_weights_in_a_second_file_pass(files: dict[str, Path], images: Images, tmp_path: Path) -> None:
    file = tmp_path / "rewritten.onnx"
    onnx.save(onnx.load(files["where"]), file, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    assert (tmp_path / "weights.bin").stat().st_size > 20 * file.stat().st_size
    assert_passed(_verify(file, "where", files, images))


@pytest.mark.parametrize("source", ["where", "gather"])
def test_a_file_optimised_by_onnxruntime_passes(
    source: str, files: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    file = tmp_path / "rewritten.onnx"
    onnx.save(faithful.optimised_by_onnxruntime(onnx.load(files[source]), tmp_path), file)
    assert_passed(_verify(file, source, files, images))


def test_a_half_precision_file_optimised_for_a_cpu_is_no_half_precision_file(
    files: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    """ONNX Runtime has no half-precision kernels there and writes casts around float32 layers, which is found."""
    file = tmp_path / "rewritten.onnx"
    onnx.save(faithful.optimised_by_onnxruntime(onnx.load(files["fp16"]), tmp_path), file)
    failed = failed_gates(_verify(file, "fp16", files, images))
    assert {"declared_differently", "other_precision_layers"} <= set(failed)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [21, 22, 23])
def test_an_export_in_another_opset_passes(
    opset: int, export_again: Callable[..., Artifact], files: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    file = export_again(files["checkpoint"], tmp_path / "rewritten.onnx", opset=opset).path
    assert onnx.load(file).opset_import[0].version == opset
    assert_passed(_verify(file, "where", files, images))


@pytest.mark.slow
def test_a_bf16_file_passes_in_the_reference_evaluator(
    export_again: Callable[..., Artifact], files: dict[str, Path], tmp_path: Path
) -> None:
    file = export_again(files["calm"], tmp_path / "bf16.onnx", precision="bf16", opset=22).path
    certificate = verify(file, files["calm"], make_images(2, seed=3), shifts=2, runtime="onnx-reference")
    assert_passed(certificate)
    assert certificate.file["precision_found"] == "bf16"


def _options(monkeypatch: pytest.MonkeyPatch, **chosen: Any) -> None:
    """Let every session of ONNX Runtime start with these options."""
    original = onnxruntime_session.session_options

    def options(num_threads: int | None) -> Any:
        made = original(num_threads)
        for name, value in chosen.items():
            setattr(made, name, value)
        return made

    monkeypatch.setattr(onnxruntime_session, "session_options", options)


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("source", ["where", "int8"])
def test_another_number_of_threads_passes(
    source: str, num_threads: int, files: dict[str, Path], images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    _options(monkeypatch, intra_op_num_threads=num_threads)
    assert_passed(_verify(files[source], source, files, images))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("source", ["where", "fp16", "int8"])
def test_another_level_of_optimisation_passes(
    source: str, level: str, files: dict[str, Path], images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    _options(monkeypatch, graph_optimization_level=getattr(onnxruntime.GraphOptimizationLevel, level))
    assert_passed(_verify(files[source], source, files, images))
