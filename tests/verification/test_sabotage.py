"""A file that was tampered with does not pass, and the certificate names what was done to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from aps_deploy.export import export_onnx
from aps_deploy.models import ResNet, save_checkpoint
from aps_deploy.runtimes import open_session
from aps_deploy.verification import GATES, Certificate, verify
from tests.verification import sabotage, sabotage_network
from tests.verification.conftest import IMAGE_SIZE, PREPROCESSING, make_network
from tests.verification.sabotage import Edit
from tests.verification.verdicts import failed_gates

Images = npt.NDArray[np.float32]

# What each edit must fail, and for the static check, the rule that must be named.
CASES: list[tuple[Edit, str, str]] = [
    (sabotage.energies_in_half, "static_findings", "selection-precision"),
    (sabotage.energies_in_half_behind("Relu"), "static_findings", "selection-precision"),
    (sabotage.energies_in_half_behind("Clip"), "static_findings", "selection-precision"),
    (sabotage.inputs_of_energies_in_half, "static_findings", "selection-precision"),
    (sabotage.sums_in_half, "static_findings", "selection-precision"),
    (sabotage.sums_in_float, "static_findings", "selection-sum"),
    (sabotage.comparisons_in_half, "static_findings", "selection-precision"),
    (sabotage.comparisons_in_float, "static_findings", "selection-sum"),
    (sabotage.argmax_for_chain, "static_findings", "tie-order"),
    (sabotage.ties_to_the_last, "static_findings", "tie-order"),
    (sabotage.permuted_components, "parity_excess", ""),
    (sabotage.permuted_scores, "unexplained_selections", ""),
    (sabotage.permuted_everywhere, "unexplained_selections", ""),
    (sabotage.padding_mode("constant"), "static_findings", "padding"),
    (sabotage.padding_mode("reflect"), "static_findings", "padding"),
    (sabotage.padding_mode("edge"), "identical_shifts", ""),
    (sabotage.padding_in_convolution, "static_findings", "padding"),
    (sabotage.swapped_filters, "parity_excess", ""),
    (sabotage.weights_in_half, "parity_excess", ""),
    (sabotage.float_mean, "static_findings", "pooling"),
    (sabotage.global_average_pool, "static_findings", "pooling"),
    (sabotage.mean_as_product, "static_findings", "pooling"),
    (sabotage.without_indices, "missing_outputs", ""),
    (sabotage.without_indices, "unaudited_layers", "no output polyphase_indices"),
    (sabotage.without_metadata, "unaudited_layers", "no metadata"),
    (sabotage.both(sabotage.without_metadata, sabotage.without_indices), "unaudited_layers", "not auditable"),
    (sabotage.redeclare(selections=[]), "unaudited_layers", "layer2.0.pool"),
    (sabotage.redeclare(selection="float"), "declared_differently", "selection is float, the reference has exact"),
    (sabotage.redeclare(criterion="linf"), "declared_differently", "criterion is linf, the reference has l2"),
    (sabotage.redeclare(padding="zeros"), "declared_differently", "padding is zeros, the reference has circular"),
    (sabotage.redeclare(pool_only=True), "declared_differently", "pool_only is True, the reference has False"),
    (sabotage.redeclare(odd_maps="pad"), "declared_differently", "odd_maps is pad, the reference has error"),
    (sabotage.redeclare(precision="int8"), "declared_differently", "precision is int8, the graph computes in fp32"),
    (sabotage.redeclare(precision="fp16"), "declared_differently", "precision is fp16, the graph computes in fp32"),
    (sabotage.redeclare(selection_layers=["a", "b"]), "declared_differently", "selecting layers are a, b"),
    (sabotage.redeclare(arguments={}), "declared_differently", "selection is not stated"),
    (sabotage.without_logits, "missing_outputs", ""),
    (sabotage.made_up_indices, "unexplained_selections", ""),
    (sabotage.indices_out_of_range, "index_range", ""),
    (sabotage.not_a_number, "non_finite_rows", ""),
    (sabotage.not_a_number, "non_finite_pairs", ""),
    (sabotage.mixed_batch, "batch_size_difference", ""),
    (sabotage.always_first_component, "identical_shifts", ""),
    (sabotage_network.blur_off_by_one, "parity_excess", ""),
    (sabotage_network.box_blur, "parity_excess", ""),
    (sabotage_network.swapped_colours, "parity_excess", ""),
    (sabotage_network.stale_batch_norm, "parity_excess", ""),
    (sabotage_network.other_normalisation, "parity_excess", ""),
    (sabotage_network.truncated_weights, "parity_excess", ""),
    (sabotage_network.dropped_shortcut, "parity_excess", ""),
    (sabotage_network.leaky_relu, "parity_excess", ""),
    (sabotage_network.shortcut_of_a_fixed_grid, "parity_excess", ""),
    (sabotage_network.shortcut_of_a_fixed_grid, "identical_shifts", ""),
    (sabotage_network.topk_for_chain, "static_findings", "TopK leaves the order of ties"),
    (sabotage_network.biased_logits, "parity_mean_abs", ""),
    (sabotage_network.negated_class, "parity_cosine", ""),
    (sabotage_network.permuted_classes, "clear_top1_changes", ""),
    (sabotage_network.permuted_classes, "accuracy_drop", ""),
    (sabotage_network.blind_half, "top1_consistency", ""),
    (sabotage_network.position_dependent(1e-6), "identical_shifts", ""),
    (sabotage_network.slot_dependent(1e-6), "identical_rows", ""),
    (sabotage_network.slot_dependent(0.1), "batch_slot_difference", ""),
    (sabotage_network.noise, "repeat_difference", ""),
    (sabotage.redeclare(preprocessing={**PREPROCESSING.to_dict(), "mean": [0.4, 0.5, 0.5]}), "declared_differently",
     "preprocessing mean is (0.4, 0.5, 0.5), the reference has (0.5, 0.5, 0.5)"),
    (sabotage.redeclare(preprocessing={**PREPROCESSING.to_dict(), "std": [1.0, 1.0, 1.0]}), "declared_differently",
     "preprocessing std is"),
    (sabotage.redeclare(preprocessing={**PREPROCESSING.to_dict(), "channel_order": "BGR"}), "declared_differently",
     "preprocessing channel_order is BGR, the reference has RGB"),
    (sabotage.redeclare(preprocessing={**PREPROCESSING.to_dict(), "resize": 20}), "declared_differently",
     "preprocessing resize is 20, the reference has None"),
    (sabotage.redeclare(class_names=[f"class {number}" for number in (0, 2, 1, 3, 4, 5, 6)]), "declared_differently",
     "class 1 is class 2, the reference has class 1"),
]  # fmt: skip

ELSEWHERE = {"changed_bytes", "other_precision_layers", "parity_images"}
"""Gates whose sabotage is not among `CASES`: the last test of this file, `test_precision_proof`, and `test_references`,
whose references cannot run with the file's choices."""


@pytest.fixture(scope="module")
def labels(exports: dict[str, Path], images: Images) -> npt.NDArray[np.int64]:
    """The good file's own answers, so that it is always right."""
    with open_session(exports["where"]) as session:
        return session.run(images)["logits"].argmax(axis=1)


def _verify(
    file: Path, exports: dict[str, Path], images: Images, labels: npt.NDArray[np.int64] | None = None
) -> Certificate:
    return verify(file, exports["checkpoint"], images, labels, shifts=6)


def test_every_gate_with_a_limit_catches_something() -> None:
    assert len(CASES) >= 25
    limited = {name for name, spec in GATES.items() if spec.limits["fp32"] is not None and not spec.parametrises}
    assert limited - ELSEWHERE == {name for _, name, _ in CASES} - ELSEWHERE


@pytest.mark.parametrize(
    ("edit", "name", "rule"), CASES, ids=[f"{edit.__name__}-{number}" for number, (edit, _, _) in enumerate(CASES)]
)
def test_a_sabotaged_file_fails_the_right_check(
    edit: Edit,
    name: str,
    rule: str,
    exports: dict[str, Path],
    images: Images,
    labels: npt.NDArray[np.int64],
    tmp_path: Path,
) -> None:
    file = sabotage.write_sabotaged(exports["where"], tmp_path / "bad.onnx", edit)
    failed = failed_gates(_verify(file, exports, images, labels))
    assert name in failed
    assert rule in failed[name]


def test_a_ramp_that_parity_cannot_see_breaks_the_bits_and_nothing_else(
    exports: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    edit = sabotage_network.position_dependent(1e-6)
    file = sabotage.write_sabotaged(exports["where"], tmp_path / "bad.onnx", edit)
    assert list(failed_gates(_verify(file, exports, images))) == ["identical_shifts"]


def _failed_fast(file: Path, exports: dict[str, Path], images: Images) -> dict[str, str]:
    return failed_gates(verify(file, exports["checkpoint"], images[:2], shifts=1))


def test_a_declaration_does_not_choose_the_rules(exports: dict[str, Path], images: Images, tmp_path: Path) -> None:
    edit = sabotage.both(sabotage.sums_in_float, sabotage.redeclare(selection="float"))
    failed = _failed_fast(sabotage.write_sabotaged(exports["where"], tmp_path / "a.onnx", edit), exports, images)
    assert "selection is float" in failed["declared_differently"]
    assert "selection-sum" in failed["static_findings"]
    edit = sabotage.both(sabotage.padding_in_convolution, sabotage.redeclare(padding="zeros"))
    failed = _failed_fast(sabotage.write_sabotaged(exports["where"], tmp_path / "b.onnx", edit), exports, images)
    assert "padding is zeros" in failed["declared_differently"]
    assert "padding" in failed["static_findings"]


def test_the_same_weights_with_float_selection_fail_against_the_exact_reference(
    exports: dict[str, Path], network: ResNet, images: Images, tmp_path: Path
) -> None:
    floating = make_network(selection="float")
    floating.load_state_dict(network.state_dict())
    export_onnx(floating, tmp_path / "float.onnx", image_size=IMAGE_SIZE)
    certificate = verify(tmp_path / "float.onnx", exports["checkpoint"], images, shifts=2)
    failed = failed_gates(certificate)
    assert "selection is float, the reference has exact" in failed["declared_differently"]
    assert "selection-sum" in failed["static_findings"]
    assert certificate.file["declared"]["selection"] == "float"
    assert certificate.reference["promised"]["selection"] == "exact"
    checkpoint = save_checkpoint(tmp_path / "float.safetensors", floating, preprocessing=PREPROCESSING)
    as_checkpoint = failed_gates(verify(checkpoint, exports["checkpoint"], images[:2], shifts=1))
    assert "selection is float, the reference has exact" in as_checkpoint["declared_differently"]


@pytest.mark.parametrize("form", ["custom-op", "gather"])
def test_low_precision_is_found_in_every_form(
    form: str, exports: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    file = sabotage.write_sabotaged(exports[form], tmp_path / "bad.onnx", sabotage.energies_in_half)
    failed = failed_gates(_verify(file, exports, images))
    assert "selection-precision" in failed["static_findings"]
    assert "half_down" in failed["static_findings"]  # the node is named


def test_permuted_components_are_found_in_the_gather_form(
    exports: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    file = sabotage.write_sabotaged(exports["gather"], tmp_path / "bad.onnx", sabotage.permuted_components_gather)
    assert "parity_excess" in failed_gates(_verify(file, exports, images))


def test_low_precision_inside_a_function_body_is_found(
    exports: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    import onnx

    model = onnx.load(exports["custom-op"])
    function = next(entry for entry in model.functions if "ReduceSumSquare" in {node.op_type for node in entry.node})
    energy = next(node for node in function.node if node.op_type == "ReduceSumSquare")
    casts = sabotage.through_half(energy.input[0])
    energy.input[0] = casts[-1].output[0]
    position = next(index for index, node in enumerate(function.node) if node is energy or node == energy)
    for offset, cast in enumerate(casts):
        function.node.insert(position + offset, cast)
    onnx.save(model, tmp_path / "bad.onnx")
    failed = failed_gates(_verify(tmp_path / "bad.onnx", exports, images))
    assert "selection-precision" in failed["static_findings"]


def test_bytes_changed_after_the_export_fail_even_where_nothing_else_does(
    exports: dict[str, Path], images: Images, tmp_path: Path
) -> None:
    import onnx

    file = tmp_path / "where.onnx"
    model = onnx.load(exports["where"])
    model.doc_string = "edited"
    onnx.save(model, file)
    (tmp_path / "where.json").write_bytes(exports["where"].with_suffix(".json").read_bytes())
    certificate = _verify(file, exports, images)
    assert list(failed_gates(certificate)) == ["changed_bytes"]
    assert certificate.check("identical_shifts").status == "passed"
