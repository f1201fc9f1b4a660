"""The ops that blur and sample at once, as PyTorch sees them: gradients, registrations, and when they are not used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from aps_deploy.errors import ApsError
from aps_deploy.layers import APS, BlurPosition, Selections, binomial_kernel
from aps_deploy.plugins.cpu import library
from aps_deploy.plugins.switch import without_kernels
from aps_deploy.polyphase import exporting, take_component
from aps_deploy.polyphase.blurred import blurred_index, blurred_take, fits_kernels
from tests.plugins.cpu.maps import blurred


@pytest.fixture(autouse=True)
def _kernels() -> None:
    reason = library.why_unavailable()
    if reason is not None:
        pytest.skip(f"the CPU kernels: {reason}")


@pytest.fixture(autouse=True)
def _no_compiled_graphs() -> Iterator[None]:
    yield
    torch.compiler.reset()


def random_map(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filters_of(size: int, channels: int) -> Tensor:
    return binomial_kernel(size).expand(channels, 1, -1, -1).contiguous()


def sampled(layer: APS, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the kept component, what a shortcut takes of the same map, and the gradient of their weighted sum."""
    x = x.clone().requires_grad_()
    y, index = layer(x, Selections())
    shortcut = layer.reuse(x, index)
    weights = torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()
    (y * weights + (shortcut * weights.sin()).square()).sum().backward()
    assert x.grad is not None
    return y.detach(), index, x.grad


@pytest.mark.parametrize("position", ["before_selection", "after_selection"])
@pytest.mark.parametrize(("stride", "size"), [(2, 1), (2, 2), (2, 3), (2, 7), (3, 2), (3, 5), (4, 4), (4, 7)])
def test_a_layer_has_the_gradient_of_its_standard_form(stride: int, size: int, position: BlurPosition) -> None:
    layer = APS(5, stride, filter_size=size, blur_position=position)
    x = random_map(3, 5, 8 * stride, 5 * stride, seed=size)
    assert fits_kernels(x, layer.blur.kernel, stride)
    y, index, grad = sampled(layer, x)
    with without_kernels():
        expected_y, expected_index, expected_grad = sampled(layer, x)
        exact = sampled(layer, x.double())[2]
    assert torch.equal(index, expected_index)
    torch.testing.assert_close(y, expected_y, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(grad, expected_grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(grad.double(), exact, atol=1e-6, rtol=1e-5)


def test_training_goes_through_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from aps_deploy.plugins.cpu import torch_calls

    called = []
    put = torch_calls.put
    monkeypatch.setattr(torch_calls, "put", lambda *given: called.append(1) or put(*given))  # type: ignore[func-returns-value]
    sampled(APS(5, filter_size=3), random_map(2, 5, 8, 8))
    assert len(called) == 2
    with without_kernels():
        sampled(APS(5, filter_size=3), random_map(2, 5, 8, 8))
    assert len(called) == 2


@pytest.mark.parametrize("size", [1, 3, 4])
def test_second_derivatives(size: int) -> None:
    x, filters, index = random_map(2, 3, 6, 8).requires_grad_(), filters_of(size, 3), torch.tensor([1, 2])
    weights = random_map(2, 3, 6, 8, seed=1)

    def second(taken: Tensor) -> tuple[Tensor, Tensor]:
        (first,) = torch.autograd.grad(taken.pow(3).sum(), x, create_graph=True)
        (found,) = torch.autograd.grad((first * weights).sum(), x)
        return first.detach(), found

    expected = second(take_component(blurred(x, filters), index))
    for one, other in zip(second(blurred_take(x, filters, index, 2)), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_registrations(size: int) -> None:
    x, filters = random_map(3, 4, 4, 6).requires_grad_(), filters_of(size, 4)
    index = blurred_index(x, filters, 2, "l2")
    grad = random_map(3, 4, 2, 3, seed=1).requires_grad_()
    ops = torch.ops.aps
    torch.library.opcheck(ops.blurred_index.default, (x, filters, 2, "l2"))
    torch.library.opcheck(ops.blurred_take.default, (x, filters, index, 2))
    torch.library.opcheck(ops.blurred_put.default, (grad, filters, index, 2, 4, 6))


def test_maps_and_gradients_of_any_layout() -> None:
    x, filters = random_map(2, 3, 6, 6), filters_of(3, 3)
    index = blurred_index(x, filters, 2, "l2")
    last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = blurred_take(last, filters, index, 2)
    assert torch.equal(y, blurred_take(x, filters, index, 2))
    assert torch.equal(blurred_index(last, filters, 2, "l2"), index)
    y.sum().backward()  # its gradient is one number, expanded
    assert last.grad is not None
    torch.testing.assert_close(last.grad.sum(), torch.tensor(54.0))


def test_filters_that_learn_take_the_standard_form() -> None:
    layer, x = APS(3, filter_size=3), random_map(2, 3, 8, 8)
    layer.blur.kernel.requires_grad_()
    y, _ = layer(x, Selections())
    y.square().sum().backward()
    assert layer.blur.kernel.grad is not None and bool((layer.blur.kernel.grad != 0).all())
    with pytest.raises(ApsError, match="no gradient for the filters"):
        blurred_take(x, layer.blur.kernel, torch.zeros(2, dtype=torch.int64), 2)


def test_what_the_kernels_leave_to_the_standard_form() -> None:
    x, filters = random_map(2, 3, 8, 8), filters_of(3, 3)
    assert fits_kernels(x, filters, 2)
    assert fits_kernels(x.clone().requires_grad_(), filters, 2)
    assert not fits_kernels(x.double(), filters.double(), 2)
    assert not fits_kernels(x.bfloat16(), filters, 2)
    assert not fits_kernels(x.contiguous(memory_format=torch.channels_last), filters, 2)
    assert not fits_kernels(x.to("meta"), filters, 2)
    assert not fits_kernels(x[:, :, :2], filters, 2)
    with exporting():
        assert not fits_kernels(x, filters, 2)
    with without_kernels():
        assert not fits_kernels(x, filters, 2)


class Sampled(torch.nn.Module):
    """A layer and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = APS(4, filter_size=3)

    def forward(self, x: Tensor) -> Tensor:
        y, index = self.layer(x, Selections())
        return y * self.layer.reuse(x.relu(), index)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_a_graph_break(backend: str) -> None:
    module, x = Sampled(), random_map(2, 4, 8, 8)
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    found = []
    for call in (module, compiled):
        given = x.clone().requires_grad_()
        y = call(given)
        y.square().sum().backward()
        found.append((y.detach(), given.grad))
    for one, other in zip(*found, strict=True):
        assert one is not None and other is not None and torch.equal(one, other)


@pytest.mark.parametrize("grad", [False, True])
def test_an_exported_program_holds_none_of_them(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        program = torch.export.export(Sampled(), (random_map(2, 4, 8, 8),))
    names = {str(node.target) for node in program.graph.nodes}
    assert {name for name in names if name.startswith("aps.")} == {
        "aps.polyphase_index.default",
        "aps.polyphase_take.default",
    }
