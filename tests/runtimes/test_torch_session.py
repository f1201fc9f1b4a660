"""Checkpoints and networks in memory through the session interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from tests.gpus import needs_torch_cuda
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


OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB.\nSee documentation"
)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device as far as a session asks: its memory is the host's."""
    for owner in (torch.Tensor, torch.nn.Module):
        monkeypatch.setattr(owner, "to", _staying(owner.to))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")


def _staying(move: Callable[..., object]) -> Callable[..., object]:
    return lambda self, *where, **others: self if where == ("cuda",) else move(self, *where, **others)


def _failing(error: Exception) -> Callable[..., object]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.OutOfMemoryError(OUT_OF_MEMORY),
            r"\(CUDA out of memory\. Tried .* of 79\.10 GiB\); give fewer images at once, or free memory of the GPU\.$",
        ),
        (torch.AcceleratorError("CUDA error: an illegal\nmore"), r"\(CUDA error: an illegal\)\.$"),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
            r"\(cuDNN error: CUDNN_STATUS_EXECUTION_FAILED\)\.$",
        ),
    ],
    ids=["memory", "kernel", "library"],
)
def test_an_error_of_cuda_is_one_sentence(
    error: Exception, words: str, gpu: None, network: ResNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_session(network, device="cuda") as session:
        expected = open_session(network, device="cpu").run(graphs.images(2, 16, 16))["logits"]
        np.testing.assert_array_equal(session.run(graphs.images(2, 16, 16))["logits"], expected)
    monkeypatch.setattr(ResNet, "forward_with_selection", _failing(error))
    with open_session(network, device="cuda") as session, pytest.raises(ApsError, match=words) as caught:
        session.run(graphs.images(2, 16, 16))
    message = str(caught.value)
    assert message.startswith("PyTorch failed on the network in memory with images of shape (2, 3, 16, 16) (")
    assert "\n" not in message and caught.value.__cause__ is error


def test_a_gpu_too_full_for_the_network_is_one_sentence(
    gpu: None, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Module, "to", _failing(torch.OutOfMemoryError(OUT_OF_MEMORY)))
    with pytest.raises(ApsError, match=r"^PyTorch failed on .*net\.safetensors \(CUDA out of memory\."):
        open_session(checkpoint, device="cuda")


def test_memory_that_a_compiled_network_lacks_is_not_the_compilers_fault(
    gpu: None, network: ResNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda _: _failing(torch.OutOfMemoryError(OUT_OF_MEMORY)))
    words = r"^PyTorch failed on .* \(CUDA out of memory\."
    opened = open_session(network, runtime="torch-compiled", device="cuda")
    with opened as session, pytest.raises(ApsError, match=words):
        session.run(graphs.images(2, 16, 16))


def test_an_error_on_the_cpu_stays_what_it_is(network: ResNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResNet, "forward_with_selection", _failing(RuntimeError("a bug\nmore")))
    with open_session(network, device="cpu") as session, pytest.raises(RuntimeError, match=r"^a bug\nmore$"):
        session.run(graphs.images(2, 16, 16))


def test_bench_says_in_one_sentence_that_the_gpu_is_full(
    gpu: None, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from aps_deploy.cli import app

    monkeypatch.setattr(ResNet, "forward_with_selection", _failing(torch.OutOfMemoryError(OUT_OF_MEMORY)))
    result = CliRunner().invoke(app, ["bench", str(checkpoint), "-b", "200", "--device", "cuda"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "with images of shape (200, 3, 32, 32) (CUDA out of memory." in result.stderr
    assert result.stderr.count("\n") == 1 and "documentation" not in result.stderr


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
@needs_torch_cuda
def test_cuda_agrees_with_the_cpu(checkpoint: Path, session: Session) -> None:
    images = graphs.images(4, 16, 16)
    with open_session(checkpoint, device="cuda") as on_gpu:
        assert on_gpu.device == "cuda"
        outputs = on_gpu.run(images)
    expected = session.run(images)
    np.testing.assert_allclose(outputs["logits"], expected["logits"], atol=1e-4, rtol=1e-3)
    np.testing.assert_array_equal(outputs["polyphase_indices"], expected["polyphase_indices"])


@pytest.mark.gpu
@needs_torch_cuda
def test_a_batch_too_large_for_the_gpu_is_one_sentence(checkpoint: Path) -> None:
    images = graphs.images(1, 32, 32)
    with open_session(checkpoint, device="cuda") as session:
        expected = session.run(images)["logits"]
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.01)
        try:
            with pytest.raises(
                ApsError, match=r"shape \(20000, 3, 32, 32\) \(CUDA out of memory\..*fewer images at once"
            ):
                session.run(np.broadcast_to(images, (20_000, 3, 32, 32)))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        np.testing.assert_array_equal(session.run(images)["logits"], expected)
