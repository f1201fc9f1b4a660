"""What a GPU would wait for, as far as a CPU can show it: how bytes are sent, and in which arithmetic they meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from aps_deploy.training import augment, loop
from aps_deploy.training.images import MemoryImages
from aps_deploy.training.loop import run_training
from aps_deploy.training.precision import without_tf32
from aps_deploy.training.recipes import RECIPES
from tests.training.conftest import Settings


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """What was pinned, on a machine that cannot; tensors of a GPU that is not there are not kept for others."""
    found: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    augment._channels.cache_clear()
    yield found
    augment._channels.cache_clear()


class Sent(TorchDispatchMode):
    """Lists every copy to a GPU: whether it lets the CPU go on."""

    def __init__(self) -> None:
        super().__init__()
        self.lets_go: list[bool] = []

    def __torch_dispatch__(self, call: Any, types: Any, given: tuple[Any, ...] = (), named: Any = None) -> Any:
        named = named or {}
        if "_to_copy" in str(call) and torch.device(named.get("device") or "cpu").type == "cuda":
            self.lets_go.append(bool(named.get("non_blocking")))
        return call(*given, **named)


def test_augmentation_waits_for_no_gpu(pinned: list[Tensor]) -> None:
    recipe = RECIPES["fast"]
    with FakeTensorMode():
        batch = torch.empty(8, 3, 32, 32, dtype=torch.uint8, device="cuda")
        draws = augment.Draws(torch.zeros(2, 8, dtype=torch.int64), torch.zeros(8, dtype=torch.bool), None)
        augment.normalise(batch, recipe.mean, recipe.std)  # makes the mean and the deviation, once
        with Sent() as sent:
            result = augment.normalise(augment.augment(batch, recipe, draws), recipe.mean, recipe.std)
    assert result.device.type == "cuda" and result.dtype == torch.float32
    assert sent.lets_go == [True, True], "the offsets and the flips, and no more"
    assert [tuple(tensor.shape) for tensor in pinned] == [(2, 8, 1), (8,)]


def test_the_mean_is_for_training_too() -> None:
    """Validation may ask first, and what inference mode makes cannot be used where gradients are recorded."""
    augment._channels.cache_clear()
    with torch.inference_mode():
        augment.normalise(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    assert not augment._channels((0.1, 0.2, 0.3), torch.device("cpu")).is_inference()


@pytest.mark.parametrize("has_gpu", [False, True])
def test_images_in_memory_are_pinned_where_there_is_a_gpu(
    has_gpu: bool, pinned: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    images = MemoryImages(torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2), torch.tensor([4, 5]))
    ((batch, labels),) = images.batches([torch.tensor([1, 0])])
    assert torch.equal(batch, images.images.flip(0)) and labels.tolist() == [5, 4]
    assert [id(tensor) for tensor in pinned] == ([id(batch), id(labels)] if has_gpu else [])


def arithmetic() -> tuple[Any, ...]:
    cudnn = torch.backends.cudnn
    return cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, torch.get_float32_matmul_precision()


def test_float32_is_float32_while_training_and_validating(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[Any, ...]] = []
    for name in ("train_epoch", "validate"):
        original = getattr(loop, name)

        def looked_at(*arguments: Any, original: Any = original, **more: Any) -> Any:
            found.append(arithmetic())
            return original(*arguments, **more)

        monkeypatch.setattr(loop, name, looked_at)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    before = arithmetic()
    assert before[0], "PyTorch's default, or this shows nothing"
    run_training(settings(arch="resnet20", epochs=1, deterministic=True))
    assert found == [(False, False, True, "highest")] * 3, "one epoch, its validation and the test"
    assert arithmetic() == (before[0], before[1], True, before[3])


def test_the_flags_are_restored_after_an_error() -> None:
    before = arithmetic()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(ZeroDivisionError), without_tf32():
            assert torch.get_float32_matmul_precision() == "highest"
            1 / 0  # noqa: B018
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before[3])
    assert arithmetic() == before
