"""Exported networks against PyTorch, on images, batch sizes and sizes that tracing did not see."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from aps_deploy.export.forms import POLYPHASE_FORMS
from aps_deploy.export.onnx_export import finish_onnx, trace_onnx
from aps_deploy.models import ResNet, list_models, spec
from tests.export.support import OPSET, exported, full_model, ort_session, run, short_model, trace_model, traced

# float32 parity of the design. Untrained networks of a hundred layers amplify roundings beyond it, in PyTorch as
# anywhere; the file may then be a few times as far from the network in float64 as PyTorch's float32 is.
ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE = 1e-4, 1e-3
TIMES_THE_ERROR_OF_TORCH = 4.0
# Of the largest logit: however far PyTorch itself is off in float32, the file may not be further.
LARGEST_TOLERANCE = 1e-2
# Relative margin below which a choice may differ: some hundred roundings of float32.
NEAR_TIE = 1e-5

# Every pair of family, block, and sampler with odd or even filter; ./scripts/nightly walks the whole registry. Tracing
# takes the time, so some are cut to one block in each stage here.
ARCHITECTURES = {
    "resnet20": (20, 12),
    "resnet20_lpf4": (16, 24),
    "resnet20_aps3": (32, 32),
    "cifar_resnet50_lpf3": (16, 16),
    "cifar_resnet50_aps2": (16, 16),
    "resnet18_lpf5": (64, 64),
    "resnet18_aps6": (64, 96),
    "resnet50": (64, 64),
    "resnet50_lpf2": (64, 64),
    "resnet50_aps3": (64, 64),
}
SHORTENED = {"resnet20", "cifar_resnet50_lpf3", "cifar_resnet50_aps2", "resnet18_lpf5", "resnet50", "resnet50_lpf2"}


def _images(count: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 3, *size)).astype(np.float32)


def _assert_equal_to_torch(model: ResNet, images: np.ndarray, outputs: list[np.ndarray]) -> None:
    x = torch.from_numpy(images)
    indices = torch.from_numpy(outputs[1]) if model.selection_layers else torch.empty(len(images), 0, dtype=torch.int64)
    assert len(outputs) == (2 if model.selection_layers else 1)
    # PyTorch follows the file's choices, so that a near-tie, of which untrained networks have some, shows as one
    # choice and not as other logits.
    trace = model.trace_selections(x, forced=indices)
    assert indices.shape == (len(images), len(model.selection_layers))
    differ = trace.chosen != indices
    assert (trace.margins[differ] < NEAR_TIE).all()
    assert outputs[0].dtype == np.float32
    exact = copy.deepcopy(model).double().trace_selections(x.double(), forced=indices).logits.numpy()
    error_of_torch = np.abs(trace.logits.numpy() - exact).max()
    as_torch = min(TIMES_THE_ERROR_OF_TORCH * error_of_torch, LARGEST_TOLERANCE * np.abs(exact).max())
    atol = max(ABSOLUTE_TOLERANCE, as_torch)
    np.testing.assert_allclose(outputs[0], exact, rtol=RELATIVE_TOLERANCE, atol=atol)


def test_the_list_covers_every_pair() -> None:
    kinds = []
    for name in ARCHITECTURES:
        found = spec(name)
        parity = "" if found.sampler == "strided" else ("odd" if found.filter_size % 2 else "even")
        kinds.append((found.family, found.bottleneck, found.sampler + parity))
    for first, second in itertools.combinations(range(3), 2):
        seen = {(kind[first], kind[second]) for kind in kinds}
        assert len(seen) == len({kind[first] for kind in kinds}) * len({kind[second] for kind in kinds})


SLOWEST = ("resnet50_aps3", "resnet18_aps6", "cifar_resnet50_lpf3", "resnet20_lpf4")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOWEST else ()) for name in ARCHITECTURES]
)
def test_every_form_equals_torch(name: str) -> None:
    size = ARCHITECTURES[name]
    # Kept for the other tests only where they use it too; the large ones would fill the memory.
    model, graph = (traced if name == "resnet20_aps3" else trace_model)(name, *size, short=name in SHORTENED)
    batches = [_images(count, size) for count in (1, 5)]
    found: dict[str, list[np.ndarray]] = {}
    for form in POLYPHASE_FORMS:
        proto = finish_onnx(graph, form)
        onnx.checker.check_model(proto, full_check=True)
        session = ort_session(proto, threads=2)
        found[form] = [values for images in batches for values in session.run(None, {"images": images})]
    num_outputs = len(found["where"]) // 2
    for position, images in enumerate(batches):
        _assert_equal_to_torch(model, images, found["where"][position * num_outputs :][:num_outputs])
    for form in POLYPHASE_FORMS:
        for values, expected in zip(found[form], found["where"], strict=True):
            assert values.tobytes() == expected.tobytes()


@pytest.mark.parametrize("form", POLYPHASE_FORMS)
@pytest.mark.parametrize("name", ["resnet20_aps3", "resnet18_aps4"])
def test_reference_evaluator_runs_every_form_without_a_plugin(name: str, form: str) -> None:
    size = 8 if name == "resnet20_aps3" else 32
    model, proto = exported(name, size, form, short=True)
    images = _images(3, (size, size))
    _assert_equal_to_torch(model, images, run(proto, images, "reference"))


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("resnet20_aps3", 8, {"criterion": "linf"}),
        ("resnet20_aps3", 8, {"criterion": "l1_min", "selection": "float"}),
        ("resnet20_aps3", 8, {"padding": "zeros"}),
        ("resnet18_aps3", 64, {"pool_only": True}),
    ],
)
def test_options_of_the_network_reach_the_file(name: str, size: int, options: dict[str, Any]) -> None:
    model = short_model(name, **options)
    graph = trace_onnx(model, height=size, width=size, opset=OPSET)
    images = _images(16, (size, size))
    _assert_equal_to_torch(model, images, run(finish_onnx(graph, "where"), images))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_whole_registry_at_the_smallest_size(name: str) -> None:
    model = full_model(name)
    side = model.spec.min_size
    proto = finish_onnx(trace_onnx(model, height=side, width=side, opset=OPSET), "where")
    onnx.checker.check_model(proto, full_check=True)
    session = ort_session(proto, threads=2)
    for count in (1, 3):
        images = _images(count, (side, side))
        _assert_equal_to_torch(model, images, session.run(None, {"images": images}))
