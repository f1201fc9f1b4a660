"""Images that are on the GPU already: the same answers, in the order of the caller's stream, as tensors again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes import open_session
from aps_deploy.runtimes.tensorrt.lanes import MAX_SHAPES
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit
from aps_deploy.runtimes.tensorrt_session import TensorRtSession
from tests.export.engines.toys import toy
from tests.gpus import needs_torch_cuda, skip_unless_engines_run
from tests.runtimes.tensorrt import fake_engine
from tests.runtimes.tensorrt.fake_cuda import CALLER, FakeGraph, FakeStream
from tests.runtimes.tensorrt.fake_engine import fake_toolkit, write_plan


@pytest.fixture
def session(tmp_path: Path, fake_cuda: None) -> TensorRtSession:
    CALLER.waited_for.clear()
    return TensorRtSession(write_plan(tmp_path / "toy.plan", toy()), toolkit=fake_toolkit())


def _images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def _stream(session: TensorRtSession) -> FakeStream:
    with session._lanes.lend() as lane:
        stream: FakeStream = lane._stream
    return stream


@pytest.mark.parametrize("count", [1, 3, 5, 7, 8, 19])
def test_the_answers_are_those_of_arrays(session: TensorRtSession, count: int) -> None:
    for seed in range(3):  # by itself, recorded, replayed
        images = _images(count, seed)
        outputs, expected = session.run_tensors(images), session.run(images.numpy())
        assert outputs.keys() == expected.keys()
        for name, values in expected.items():
            assert isinstance(outputs[name], torch.Tensor)
            np.testing.assert_array_equal(outputs[name].numpy(), values)
    assert FakeGraph.num_replays > 0


def test_the_run_stands_in_the_order_of_the_callers_stream(session: TensorRtSession) -> None:
    session.run_tensors(_images(3))
    stream = _stream(session)
    assert stream.waited_for == [CALLER] and CALLER.waited_for == [stream]
    assert stream.num_synchronised == 1  # the first run of a shape, whose kernels are kept
    session.run_tensors(_images(3))
    assert stream.waited_for == [CALLER] * 2 and CALLER.waited_for == [stream] * 2
    assert stream.num_synchronised == 1


def test_outputs_belong_to_the_caller(session: TensorRtSession) -> None:
    images = _images(3)
    kept = images.clone()
    first = session.run_tensors(images)
    before = {name: values.clone() for name, values in first.items()}
    session.run_tensors(_images(3, 1))
    for name, values in first.items():
        assert torch.equal(values, before[name])
        values.zero_()
    assert torch.equal(session.run_tensors(images)["logits"], before["logits"])
    assert torch.equal(images, kept)


def test_half_precision_images_are_taken(session: TensorRtSession) -> None:
    images = _images(2).half()
    expected = session.run(images.float().numpy())["logits"]
    np.testing.assert_array_equal(session.run_tensors(images)["logits"].numpy(), expected)


def test_memory_is_given_up_only_when_the_gpu_is_done_with_it(
    tmp_path: Path, fake_cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_engine, "PROFILES", ((1, 8, 256), (1000, 1000, 1000)))
    session = TensorRtSession(write_plan(tmp_path / "toy.plan", toy()), toolkit=fake_toolkit())
    for power in range(MAX_SHAPES):
        session.run_tensors(_images(1 << power))
    stream = _stream(session)
    assert stream.num_synchronised == MAX_SHAPES
    session.run_tensors(_images(1 << MAX_SHAPES))  # pushes the first out
    assert stream.num_synchronised == MAX_SHAPES + 2
    session.close()
    assert stream.num_synchronised == MAX_SHAPES + 3
    with pytest.raises(ApsError, match="is closed"):
        session.run_tensors(_images(2))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.int32), r"dtype torch\.int32; accepted: torch\.float32"),
        (torch.zeros(2, 3, 16, 16), "images are 16x16; this file takes only 8x8"),
        (torch.zeros(2, 1, 8, 8), "so 1 channels; accepted: 3"),
        (torch.zeros(3, 8, 8), r"have shape \(3, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), "there are no images"),
    ],
)
def test_what_it_does_not_take(images: torch.Tensor, words: str, session: TensorRtSession) -> None:
    with pytest.raises(InputError, match=words):
        session.run_tensors(images)


def test_tensors_of_the_computers_memory_are_refused(
    session: TensorRtSession, monkeypatch: pytest.MonkeyPatch, check_place: None
) -> None:
    with pytest.raises(InputError, match="on the device cpu; accepted: tensors on the GPU, or numpy arrays in run"):
        session.run_tensors(_images(2))


@pytest.fixture
def check_place(fake_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from aps_deploy.runtimes import tensorrt_session
    from tests.runtimes.tensorrt.fake_cuda import REAL_CHECK_PLACE

    monkeypatch.setattr(tensorrt_session, "_check_place", REAL_CHECK_PLACE)


@pytest.mark.gpu
@needs_torch_cuda
def test_a_real_plan_takes_tensors_between_the_callers_own_work(rtx: Toolkit, rtx_plan: Path) -> None:
    skip_unless_engines_run(rtx)
    with open_session(rtx_plan) as session:
        assert isinstance(session, TensorRtSession)
        for seed in range(4):
            host = _images(5, seed)
            images = (2 * host.cuda()) / 2  # queued, not done
            outputs = session.run_tensors(images)
            images.zero_()  # queued behind the run
            expected = session.run(host.numpy())
            for name, values in expected.items():
                np.testing.assert_array_equal(outputs[name].cpu().numpy(), values)
