"""Files whose height and width are open give the bits of files made for one size."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from aps_deploy.errors import ApsError
from aps_deploy.export.dynamic_size import with_dynamic_size
from aps_deploy.export.forms import POLYPHASE_FORMS, PolyphaseForm
from aps_deploy.export.onnx_export import finish_onnx
from aps_deploy.export.precisions import in_half_precision
from tests.export.engines.toys import traced_toy
from tests.export.support import RUNTIMES, Runtime, run, traced


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("form", POLYPHASE_FORMS)
def test_one_file_gives_the_bits_of_each_size_and_keeps_them_under_shifts(
    form: PolyphaseForm, runtime: Runtime
) -> None:
    graph = traced_toy()
    many = finish_onnx(with_dynamic_size(graph), form)
    onnx.checker.check_model(many, full_check=True)
    assert [d.dim_param or d.dim_value for d in many.graph.input[0].type.tensor_type.shape.dim] == [
        *("batch", 3, "height", "width")
    ]
    generator = np.random.default_rng(1)
    images = generator.standard_normal((2, 3, 8, 8)).astype(np.float32)
    alone = run(finish_onnx(graph, form), images, runtime)
    assert [value.tobytes() for value in run(many, images, runtime)] == [value.tobytes() for value in alone]
    wide = generator.standard_normal((2, 3, 6, 10)).astype(np.float32)
    still = run(many, wide, runtime)[0]
    for shift in ((1, 0), (3, 7)):
        assert run(many, np.roll(wide, shift, axis=(2, 3)), runtime)[0].tobytes() == still.tobytes()


def test_half_precision_leaves_the_size_open_too() -> None:
    many = finish_onnx(with_dynamic_size(in_half_precision(traced_toy(), "fp16")), "where")
    image = np.random.default_rng(2).standard_normal((1, 3, 12, 4)).astype(np.float32)
    moved = np.roll(image, (5, 1), axis=(2, 3))
    assert run(many, image)[0].tobytes() == run(many, moved)[0].tobytes()


def test_the_network_agrees_at_sizes_it_was_not_traced_for() -> None:
    import torch

    model, graph = traced("resnet20_aps3", 8, 8, short=True)
    many = finish_onnx(with_dynamic_size(graph), "where")
    for shape in ((2, 3, 16, 12), (1, 3, 32, 32)):
        images = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
        logits, indices = run(many, images)
        with torch.inference_mode():
            expected, chosen = model.forward_with_selection(torch.from_numpy(images))
        np.testing.assert_array_equal(indices, chosen.numpy())
        np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_an_operator_that_keeps_its_size_is_refused() -> None:
    graph = traced_toy()
    graph.graph.node.append(helper.make_node("Reshape", ["mean", "column"], ["flat"], name="flat/Reshape"))
    with pytest.raises(ApsError, match=r"flat/Reshape \(Reshape\) keeps the size"):
        with_dynamic_size(graph)
