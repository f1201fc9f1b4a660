"""Whole networks: exact invariance, forced and traced selections, sizes, precision of the batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from aps_deploy.errors import InputError
from aps_deploy.models import ResNet, create_model


def informative(name: str, **options: object) -> ResNet:
    """Return a network in evaluation mode whose batch norms are not the identity."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=10, **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for key, value in model.state_dict().items():
        if key.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif key.endswith("running_mean"):
            value.normal_(0, 0.1, generator=generator)
    return model.eval()


def images(n: int, size: int, width: int | None = None) -> Tensor:
    return torch.randn(n, 3, size, width or size, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Threads split the work at places of their own, whatever ./scripts/test leaves to a process."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@torch.inference_mode()
def identical_shifts(model: ResNet, x: Tensor, num_shifts: int) -> int:
    """Return for how many random shifts the logits stay the same to the last bit."""
    expected = model(x)
    shifts = torch.randint(1, x.shape[2], (num_shifts, 2), generator=torch.Generator().manual_seed(3))
    return sum(torch.equal(model(torch.roll(x, tuple(shift.tolist()), (2, 3))), expected) for shift in shifts)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet20_aps1", 32),
        ("resnet20_aps3", 32),
        ("resnet20_aps4", 20),
        ("cifar_resnet18_aps2", 32),
        ("cifar_resnet50_aps3", 16),
        ("resnet18_aps3", 64),
        ("resnet34_aps2", 64),
        ("resnet50_aps5", 64),
    ],
)
def test_logits_of_aps_networks_are_bit_identical_under_shifts(name: str, size: int) -> None:
    assert identical_shifts(informative(name), images(2, size), 6) == 6


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("name", "size", "batch"),
    [
        ("resnet20_aps3", 32, 1),
        ("resnet20_aps3", 32, 8),
        ("resnet18_aps3", 224, 1),
        pytest.param("resnet18_aps3", 224, 8, marks=pytest.mark.slow),
    ],
)
def test_the_demonstration_networks_over_twenty_shifts(name: str, size: int, batch: int) -> None:
    assert identical_shifts(informative(name), images(batch, size), 20) == 20


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(("name", "size"), [("resnet20_aps3", 32), ("resnet18_aps3", 224)])
def test_the_demonstration_networks_over_two_hundred_shifts(name: str, size: int, batch: int) -> None:
    assert identical_shifts(informative(name), images(batch, size), 200) == 200


@pytest.mark.parametrize(("name", "size"), [("resnet20", 32), ("resnet20_lpf3", 32), ("resnet18_lpf5", 64)])
def test_logits_of_other_networks_are_not(name: str, size: int) -> None:
    assert identical_shifts(informative(name), images(2, size), 6) == 0


def test_shifts_by_the_total_stride_leave_even_strided_networks_alone() -> None:
    model, x = informative("resnet20"), images(2, 32)
    with torch.inference_mode():
        assert torch.equal(model(torch.roll(x, (4, -8), (2, 3))), model(x))


def test_pool_only_is_invariant_to_even_shifts_only() -> None:
    model, x = informative("resnet18_aps3", pool_only=True), images(2, 64)
    with torch.inference_mode():
        expected = model(x)
        assert torch.equal(model(torch.roll(x, (2, -6), (2, 3))), expected)
        assert not torch.equal(model(torch.roll(x, (1, 0), (2, 3))), expected)


def test_rectangular_images_and_channels_last() -> None:
    model, x = informative("resnet20_aps3"), images(3, 16, 24)
    assert identical_shifts(model, x, 4) == 4
    last = model.to(memory_format=torch.channels_last)
    assert identical_shifts(last, x.contiguous(memory_format=torch.channels_last), 4) == 4


@pytest.mark.parametrize("criterion", ["l1", "linf", "max", "l2_min", "l1_min"])
def test_every_criterion_is_exact(criterion: str) -> None:
    assert identical_shifts(informative("resnet20_aps2", criterion=criterion), images(2, 16), 4) == 4


def test_float_selection_agrees_on_labels_but_promises_no_bits() -> None:
    exact, floating = informative("resnet20_aps1"), informative("resnet20_aps1", selection="float")
    x = images(8, 32)
    with torch.inference_mode():
        torch.testing.assert_close(exact(x), floating(x), rtol=1e-4, atol=1e-4)


def test_forward_with_selection() -> None:
    model, x = informative("cifar_resnet18_aps2"), images(3, 16)
    with torch.inference_mode():
        logits, indices = model.forward_with_selection(x)
        assert torch.equal(logits, model(x))
        assert indices.shape == (3, 3) and indices.dtype == torch.int64
        again, same = model.forward_with_selection(x, forced=indices)
        assert torch.equal(again, logits) and torch.equal(same, indices)
        other, used = model.forward_with_selection(x, forced=(indices + 1) % 4)
        assert torch.equal(used, (indices + 1) % 4) and not torch.equal(other, logits)
        with pytest.raises(InputError, match="4 columns"):
            model.forward_with_selection(x, forced=torch.zeros(3, 4, dtype=torch.int64))
        with pytest.raises(InputError, match="forced indices"):
            model.forward_with_selection(x, forced=torch.zeros(3, 2, dtype=torch.int64))


def test_networks_without_aps_have_no_selections() -> None:
    logits, indices = informative("resnet20_lpf2").forward_with_selection(images(2, 16))
    assert logits.shape == (2, 10)
    assert indices.shape == (2, 0) and indices.dtype == torch.int64


def test_trace_tells_what_each_layer_would_have_chosen() -> None:
    model, x = informative("resnet20_aps3"), images(4, 16)
    with torch.inference_mode():
        _, indices = model.forward_with_selection(x)
    trace = model.trace_selections(x)
    assert torch.equal(trace.indices, indices) and torch.equal(trace.chosen, indices)
    assert trace.scores.shape == (4, 2, 4) and torch.equal(trace.scores.argmax(2), indices)
    assert float(trace.scores.max()) == 1.0
    ranked = trace.scores.sort(2, descending=True).values
    torch.testing.assert_close(trace.margins, ranked[..., 0] - ranked[..., 1])
    forced = (indices + 1) % 4
    traced = model.trace_selections(x, forced)
    assert torch.equal(traced.indices, forced)
    assert torch.equal(traced.chosen[:, 0], indices[:, 0])


@pytest.mark.parametrize("name", ["resnet20_aps3", "resnet20", "resnet18_aps1", "cifar_resnet50_lpf3"])
def test_trains_under_autocast(name: str) -> None:
    model = create_model(name, num_classes=3).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(images(4, 32)).float().square().mean()
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_compiles_whole() -> None:
    model, x = informative("resnet20_aps3"), images(2, 16)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), model(x))
