"""Exported files of every precision pass, and one that is not what it claims does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from aps_deploy.errors import InputError
from aps_deploy.verification import Certificate, verify
from tests.verification import sabotage
from tests.verification.conftest import make_images
from tests.verification.sabotage import Edit
from tests.verification.verdicts import failed_gates

Images = npt.NDArray[np.float32]

# The file that is edited, the edit, the gate that must fail and what it must say.
CASES: list[tuple[str, Edit, str, str]] = [
    ("fp16", sabotage.energies_of_narrow_maps, "static_findings", "ReduceSumSquare of the selection works in float16"),
    ("fp16", sabotage.energies_in_half, "static_findings", "selection-precision at half_down"),
    ("fp16", sabotage.inputs_of_energies_in_half, "static_findings", "selection-precision at half_down"),
    ("fp16", sabotage.sums_in_half, "static_findings", "selection-precision"),
    ("fp16", sabotage.sums_in_float, "static_findings", "selection-sum"),
    ("fp16", sabotage.comparisons_in_half, "static_findings", "selection-precision"),
    ("fp16", sabotage.argmax_for_chain, "static_findings", "tie-order"),
    ("fp16", sabotage.pooling_in_half, "static_findings", "pooling at half_down"),
    ("fp16", sabotage.layer_in_float32, "other_precision_layers", "layer2.1.bn1/Conv computes in fp32"),
    ("fp16", sabotage.layer_in_float32, "declared_differently", "precision is fp16, the graph computes in mixed"),
    ("fp16", sabotage.redeclare(precision="int8"), "other_precision_layers", "int8 is declared"),
    ("fp16", sabotage.redeclare(precision="fp32"), "declared_differently", "the graph computes in fp16"),
    ("fp16", sabotage.redeclare(precision=None), "declared_differently", "precision is not stated"),
    ("int8", sabotage.energies_in_bytes, "static_findings", "QuantizeLinear of the selection works in int8"),
    ("int8", sabotage.energies_in_half, "static_findings", "selection-precision at half_down"),
    ("int8", sabotage.comparisons_in_half, "static_findings", "selection-precision"),
    ("int8", sabotage.sums_in_float, "static_findings", "selection-sum"),
    ("int8", sabotage.pooling_in_half, "static_findings", "pooling at half_down"),
    ("int8", sabotage.layer_without_pair, "other_precision_layers", "of which only the weights is 8-bit"),
    ("int8", sabotage.redeclare(precision="fp16"), "other_precision_layers", "fp16 is declared"),
    ("fp32", sabotage.energies_in_bytes, "static_findings", "QuantizeLinear of the selection works in int8"),
    ("fp32", sabotage.both(sabotage.quantised_logits, sabotage.redeclare(precision="int8")),
     "other_precision_layers", "computes in fp32"),
    ("fp32", sabotage.both(sabotage.idle_integer_layer, sabotage.redeclare(precision="int8")),
     "declared_differently", "precision is int8, the graph computes in mixed"),
]  # fmt: skip


def _few(file: Path, precise: dict[str, Path], images: Images, **options: object) -> Certificate:
    return verify(file, precise["checkpoint"], images[:2], shifts=1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_files_of_every_precision_pass(precision: str, precise: dict[str, Path]) -> None:
    images = make_images(8, seed=2)
    certificate = verify(precise[precision], precise["checkpoint"], images, precision=precision)
    assert certificate.passed, [check.sentence() for check in certificate.failed_checks]
    assert certificate.check("identical_shifts").measured == 100
    assert certificate.check("static_findings").measured == 0
    assert certificate.check("other_precision_layers").measured == 0
    assert certificate.file["precision"] == certificate.file["precision_found"] == precision
    found = certificate.details["precision"]
    assert (found["asked"], found["declared"], found["found"]) == (precision, precision, precision)
    kinds = [(layer["op_type"], layer["precision"]) for layer in found["layers"]]
    assert kinds == [("Conv", precision)] * (len(kinds) - 1) + [("Gemm", "fp32")]
    assert [layer["is_classifier"] for layer in found["layers"]] == [False] * (len(kinds) - 1) + [True]
    assert len(kinds) == 26  # 19 convolutions of a ResNet-20, 2 shortcuts, 4 blurs, the classifier
    beside = json.loads(precise[precision].with_suffix(".json").read_text())
    assert beside["layer_precisions"] == {"fp32": 1, precision: 25}
    assert beside["metadata"]["precision"] == precision
    assert certificate.counts["unexplained"] == 0


@pytest.mark.parametrize(
    ("precision", "edit", "gate", "words"),
    CASES,
    ids=[f"{case[0]}-{case[1].__name__}-{number}" for number, case in enumerate(CASES)],
)
def test_a_file_that_is_not_what_it_claims_fails(
    precision: str,
    edit: Edit,
    gate: str,
    words: str,
    precise: dict[str, Path],
    images: Images,
    tmp_path: Path,
) -> None:
    file = sabotage.write_sabotaged(precise[precision], tmp_path / "bad.onnx", edit)
    failed = failed_gates(_few(file, precise, images))
    assert words in failed[gate]


def test_a_claim_does_not_widen_the_limits(precise: dict[str, Path], images: Images, tmp_path: Path) -> None:
    """Also where the caller switches off what reports the claim."""
    edit = sabotage.both(sabotage.quantised_logits, sabotage.redeclare(precision="int8"))
    file = sabotage.write_sabotaged(precise["fp32"], tmp_path / "bad.onnx", edit)
    off = {"declared_differently": None, "other_precision_layers": None}
    certificate = _few(file, precise, images, gates=off)
    assert {"parity_excess", "parity_mean_abs"} <= set(failed_gates(certificate))
    assert certificate.check("parity_mean_abs").tolerance == 1e-4
    assert _few(precise["int8"], precise, images).check("parity_excess").tolerance is None


def test_the_caller_may_ask_for_a_precision(precise: dict[str, Path], images: Images) -> None:
    failed = failed_gates(_few(precise["fp32"], precise, images, precision="fp16"))
    assert list(failed) == ["other_precision_layers"]
    assert "fp16 is asked for: bn1/Conv computes in fp32 (fp32 operands)" in failed["other_precision_layers"]
    assert "and 22 more" in failed["other_precision_layers"]
    assert (
        "a checkpoint runs in fp32"
        in failed_gates(_few(precise["checkpoint"], precise, images, precision="int8"))["other_precision_layers"]
    )
    assert _few(precise["checkpoint"], precise, images, precision="fp32").passed
    with pytest.raises(InputError, match="unknown precision 'fp8'"):
        _few(precise["fp32"], precise, images, precision="fp8")


def test_the_document_beside_the_file_must_say_the_same(
    precise: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    file = tmp_path / precise["fp16"].name
    shutil.copyfile(precise["fp16"], file)
    document = json.loads(precise["fp16"].with_suffix(".json").read_text())
    document["metadata"]["precision"] = "int8"
    file.with_suffix(".json").write_text(json.dumps(document))
    failed = failed_gates(_few(file, precise, images))
    assert "the document beside the file says that the precision is int8" in failed["declared_differently"]


def test_without_metadata_the_layers_choose_the_limits(
    precise: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    file = sabotage.write_sabotaged(precise["fp16"], tmp_path / "bare.onnx", sabotage.without_metadata)
    certificate = _few(file, precise, images, gates={"unaudited_layers": None})
    assert certificate.check("other_precision_layers").status == "not_applicable"
    assert certificate.check("parity_mean_abs").tolerance == 1e-3
    assert failed_gates(_few(file, precise, images, precision="fp32"))["other_precision_layers"]
