"""That an exported conversion kept every bit, shared by the tests of all libraries."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from aps_deploy.conversion import ConvertedModel
from aps_deploy.export import export_onnx
from aps_deploy.layers import Classifier
from aps_deploy.verification import verify


def images_for(model: ConvertedModel, batch: int = 2) -> torch.Tensor:
    side = max(64, model.min_size)
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(3))


@functools.cache
def seeded_shifts(count: int, side: int) -> list[tuple[int, int]]:
    generator = np.random.default_rng(4)
    return [(int(a), int(b)) for a, b in generator.integers(1, side, (count, 2))]


def with_logits_of_order_one(model: ConvertedModel, images: torch.Tensor) -> ConvertedModel:
    """Return a copy whose logits have the size that the absolute gates of `verify` are made for.

    Those of untrained networks can be hundreds, and their rounding with them.
    """
    scaled = copy.deepcopy(model)
    classifier = [module for module in scaled.modules() if isinstance(module, Classifier)][-1]
    with torch.no_grad():
        size = scaled(images).abs().mean()
        for parameter in classifier.parameters():
            parameter /= size
    return scaled


def prove(model: ConvertedModel, path: Path, *, num_shifts: int) -> None:
    """Export, compare with PyTorch, shift at random in ONNX Runtime, verify."""
    images = images_for(model)
    model = with_logits_of_order_one(model, images)
    export_onnx(model, path, image_size=images.shape[2])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    values = images.numpy()
    logits, indices = session.run(["logits", "polyphase_indices"], {"images": values})
    with torch.inference_mode():
        expected, chosen = model.forward_with_selection(images)
    np.testing.assert_array_equal(indices, chosen)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4 * max(1.0, float(expected.abs().max())))
    for shift in seeded_shifts(num_shifts, images.shape[2]):
        (moved,) = session.run(["logits"], {"images": np.roll(values, shift, axis=(2, 3))})
        assert moved.tobytes() == logits.tobytes(), shift
    certificate = verify(path, model, values, shifts=4)
    assert certificate.passed, certificate.failed_checks
