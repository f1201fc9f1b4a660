from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from aps_deploy.errors import ApsError
from aps_deploy.models import ResNet
from aps_deploy.runtimes import ModelMetadata, SelectionTensors, open_session
from aps_deploy.verification.instrument import add_score_outputs, load_inlined, measure_scores
from aps_deploy.verification.references.checkpoint import load_reference
from tests.verification.conftest import FORMS, make_network

Images = npt.NDArray[np.float32]


@pytest.mark.parametrize("form", FORMS)
def test_the_files_scores_are_those_of_the_reference(
    form: str, exports: dict[str, Path], images: Images, network: ResNet
) -> None:
    metadata = ModelMetadata.from_onnx(exports[form])
    measured = measure_scores(load_inlined(exports[form]), metadata, images, batch_size=3)
    trace = load_reference(network).trace(images, batch_size=5)
    assert len(measured.scores) == 2
    for layer, scores in enumerate(measured.scores):
        normalised = scores / scores.max(axis=1, keepdims=True)
        np.testing.assert_allclose(normalised, trace.scores[:, layer], rtol=1e-5)
    np.testing.assert_array_equal(measured.indices, trace.indices)


def test_the_copy_answers_as_the_file_does(exports: dict[str, Path], images: Images) -> None:
    model = load_inlined(exports["custom-op"])
    before = model.SerializeToString()
    copy = add_score_outputs(model, ModelMetadata.from_onnx(exports["custom-op"]))
    assert model.SerializeToString() == before
    with open_session(exports["custom-op"]) as session, open_session(copy) as instrumented:
        ours, theirs = session.run(images), instrumented.run(images)
    assert len(theirs) == len(ours) + 2
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name])


def test_inlining_leaves_standard_operators_only(exports: dict[str, Path]) -> None:
    assert onnx.load(exports["custom-op"]).functions
    model = load_inlined(exports["custom-op"])
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}


def test_a_name_that_is_not_in_the_graph_is_an_error(exports: dict[str, Path], images: Images) -> None:
    metadata = ModelMetadata(selections=(SelectionTensors("layer2.0.pool", "index", "nowhere"),))
    with pytest.raises(ApsError, match="nowhere"):
        measure_scores(load_inlined(exports["where"]), metadata, images)


def test_forcing_the_own_indices_changes_nothing(images: Images, network: ResNet) -> None:
    reference = load_reference(network)
    free = reference.trace(images)
    forced = reference.trace(images, free.indices)
    np.testing.assert_array_equal(free.logits, forced.logits)
    np.testing.assert_array_equal(free.scores, forced.scores)
    other = reference.trace(images, (free.indices + 1) % 4)
    assert np.abs(other.logits - free.logits).max() > 1e-2


def test_a_network_without_selections_has_an_empty_trace(images: Images) -> None:
    reference = load_reference(make_network("resnet20"))
    trace = reference.trace(images)
    assert trace.indices.shape == trace.margins.shape == (8, 0)
    assert reference.selection_layers == ()
    assert reference.total_stride == 4


def test_the_hash_of_a_network_is_that_of_its_weights() -> None:
    assert load_reference(make_network()).sha256 == load_reference(make_network()).sha256
    assert load_reference(make_network()).sha256 != load_reference(make_network(seed=1)).sha256
