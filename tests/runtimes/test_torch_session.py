"""Checkpoints and networks in memory through the session interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from aps_deploy import create_model
from aps_deploy.errors import ApsError, InputError
from aps_deploy.models import ResNet, save_checkpoint
from aps_deploy.plugins.cpu import library
from aps_deploy.preprocessing import CIFAR10
from aps_deploy.runtimes import Session, open_session
from aps_deploy.runtimes.torch_session import full_float32
from tests.runtimes import graphs


@pytest.fixture(scope="module")
def network() -> ResNet:
    torch.manual_seed(0)
    return create_model("resnet20_aps3").eval()


@pytest.fixture(scope="module")
def checkpoint(network: ResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "net.safetensors"
    names = [f"class {index}" for index in range(10)]
    return save_checkpoint(path, network, preprocessing=CIFAR10, class_names=names)


@pytest.fixture
def session(checkpoint: Path) -> Iterator[Session]:
    with open_session(checkpoint, device="cpu") as opened:
        yield opened


def test_outputs_are_the_networks(session: Session, network: ResNet) -> None:
    images = graphs.images(3, 16, 16)
    with torch.inference_mode():
        logits, indices = network.forward_with_selection(torch.from_numpy(images))
    outputs = session.run(images)
    assert set(outputs) == set(session.output_names) == {"logits", "polyphase_indices"}
    assert outputs["logits"].dtype == np.float32
    assert outputs["polyphase_indices"].dtype == np.int64
    assert outputs["polyphase_indices"].shape == (3, 2)
    np.testing.assert_array_equal(outputs["logits"], logits.numpy())
    np.testing.assert_array_equal(outputs["polyphase_indices"], indices.numpy())


@pytest.mark.slow
def test_a_compiled_network_answers_as_the_eager_one(network: ResNet) -> None:
    images = graphs.images(3, 16, 16)
    eager = open_session(network, device="cpu").run(images)
    with open_session(network, runtime="torch-compiled", device="cpu") as session:
        assert session.runtime == "torch-compiled"
        for count in (3, 2):
            outputs = session.run(images[:count])
            np.testing.assert_allclose(outputs["logits"], eager["logits"][:count], atol=1e-4)
            np.testing.assert_array_equal(outputs["polyphase_indices"], eager["polyphase_indices"][:count])


def test_what_the_compiler_says_is_told(network: ResNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_later(function: object) -> object:
        def fail(images: torch.Tensor) -> None:
            raise OSError("no compiler\nand a page about it")

        return fail

    monkeypatch.setattr(torch, "compile", compile_later)
    with open_session(network, runtime="torch-compiled", device="cpu") as session, pytest.raises(ApsError) as caught:
        session.run(graphs.images(1, 16, 16))
    assert "(OSError: no compiler); on a CPU it needs a C++ compiler" in str(caught.value)


def test_describes_itself(session: Session, checkpoint: Path) -> None:
    providers = ("CPU", library.KERNELS) if library.is_used() else ("CPU",)
    assert (session.runtime, session.device, session.providers) == ("torch", "cpu", providers)
    assert session.metadata.architecture == "resnet20_aps3"
    assert session.metadata.preprocessing == CIFAR10
    assert session.source == str(checkpoint)


@pytest.mark.parametrize("selection", ["exact", "float"])
def test_shift_of_a_whole_stride_changes_no_prediction(network: ResNet, selection: str) -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_aps3", selection=selection)
    images = graphs.images(2, 16, 16)
    with open_session(model) as session:
        still = session.run(images)["logits"]
        moved = session.run(np.roll(images, (3, 5), axis=(2, 3)))["logits"]
    if selection == "exact":
        np.testing.assert_array_equal(moved, still)
    else:
        np.testing.assert_allclose(moved, still, atol=1e-4)


def test_strided_network_has_no_indices() -> None:
    with open_session(create_model("resnet20")) as session:
        outputs = session.run(graphs.images(2, 16, 16))
    assert set(outputs) == {"logits"} == set(session.output_names)


def test_network_in_training_mode_is_evaluated() -> None:
    model = create_model("resnet20").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = graphs.images(4, 16, 16)
    with open_session(model) as session:
        np.testing.assert_array_equal(session.run(images)["logits"], session.run(images)["logits"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_outputs_belong_to_the_caller_and_images_stay(session: Session) -> None:
    images = graphs.images(2, 16, 16)
    images.setflags(write=False)
    first = session.run(images)
    kept = first["logits"].copy()
    first["logits"][...] = 0
    np.testing.assert_array_equal(session.run(images)["logits"], kept)
    np.testing.assert_array_equal(images, graphs.images(2, 16, 16))


@pytest.mark.parametrize(
    ("size", "named"),
    [((33, 32), "36x32"), ((30, 31), "32x32"), ((0, 4), "4x4")],
)
def test_wrong_sizes_name_the_next_valid_one(session: Session, size: tuple[int, int], named: str) -> None:
    with pytest.raises(InputError, match=f"multiples of 4; the next valid size is {named}"):
        session.run(graphs.images(1, *size))


def test_closed_session_refuses_to_run(checkpoint: Path) -> None:
    session = open_session(checkpoint)
    session.close()
    session.close()
    with pytest.raises(ApsError, match="is closed"):
        session.run(graphs.images(1, 16, 16))


def test_gradients_and_global_switches_are_left_alone(session: Session) -> None:
    before = (
        torch.is_grad_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
    )
    session.run(graphs.images(1, 16, 16))
    after = (
        torch.is_grad_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
    )
    assert after == before


def test_full_float32_switches_low_precision_off_and_back() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with pytest.raises(RuntimeError, match="inside"), full_float32():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cuda.matmul.allow_tf32
            assert not torch.backends.cudnn.allow_tf32
            raise RuntimeError("inside")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"cuda was asked for.*available: cpu"):
        open_session(checkpoint, device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device")
def test_cuda_agrees_with_the_cpu(checkpoint: Path, session: Session) -> None:
    images = graphs.images(4, 16, 16)
    with open_session(checkpoint, device="cuda") as on_gpu:
        assert on_gpu.device == "cuda"
        outputs = on_gpu.run(images)
    expected = session.run(images)
    np.testing.assert_allclose(outputs["logits"], expected["logits"], atol=1e-4, rtol=1e-3)
    np.testing.assert_array_equal(outputs["polyphase_indices"], expected["polyphase_indices"])
