"""The property the project is about: the logits of an exported file do not change by a bit when the image moves."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from aps_deploy.export.forms import POLYPHASE_FORMS
from tests.export.support import exported, ort_session


def _share_of_identical_shifts(session: onnxruntime.InferenceSession, images: np.ndarray, *, num_shifts: int) -> float:
    rng = np.random.default_rng(7)
    (reference,) = session.run(["logits"], {"images": images})
    same = 0
    for _ in range(num_shifts):
        shift = tuple(int(rng.integers(side)) for side in images.shape[2:])
        (logits,) = session.run(["logits"], {"images": np.roll(images, shift, axis=(2, 3))})
        same += logits.tobytes() == reference.tobytes()
    return same / num_shifts


@pytest.mark.parametrize("form", POLYPHASE_FORMS)
def test_logits_of_aps_do_not_change_by_a_bit(form: str) -> None:
    _, proto = exported("resnet20_aps3", 32, form)
    session = ort_session(proto, threads=2)
    images = np.random.default_rng(8).standard_normal((8, 3, 32, 32)).astype(np.float32)
    assert _share_of_identical_shifts(session, images, num_shifts=20) == 1.0
    assert _share_of_identical_shifts(session, images[:1], num_shifts=20) == 1.0
    together = session.run(["logits"], {"images": images})[0]
    alone = np.concatenate([session.run(["logits"], {"images": image[None]})[0] for image in images])
    assert together.tobytes() == alone.tobytes()


def test_logits_of_a_strided_network_do_change() -> None:
    _, proto = exported("resnet20", 8, "where", short=True)
    images = np.random.default_rng(8).standard_normal((1, 3, 8, 8)).astype(np.float32)
    assert _share_of_identical_shifts(ort_session(proto), images, num_shifts=20) < 0.5


def test_logits_of_the_whole_strided_network_change() -> None:
    _, proto = exported("resnet20", 32, "where")
    images = np.random.default_rng(8).standard_normal((8, 3, 32, 32)).astype(np.float32)
    assert _share_of_identical_shifts(ort_session(proto), images, num_shifts=20) < 0.5


@pytest.mark.parametrize("batch", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_imagenet_network_at_full_size(batch: int) -> None:
    assert _full_size_share("resnet18_aps3", 224, batch, num_shifts=20) == 1.0


@pytest.mark.slow
@pytest.mark.timeout(3600)  # minutes where the machine is idle
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(("name", "size"), [("resnet18_aps3", 224), ("resnet20_aps3", 32)])
def test_two_hundred_shifts(name: str, size: int, batch: int) -> None:
    assert _full_size_share(name, size, batch, num_shifts=200) == 1.0


def _full_size_share(name: str, size: int, batch: int, *, num_shifts: int) -> float:
    _, proto = exported(name, size, "where")
    images = np.random.default_rng(9).standard_normal((batch, 3, size, size)).astype(np.float32)
    return _share_of_identical_shifts(ort_session(proto, threads=2), images, num_shifts=num_shifts)
