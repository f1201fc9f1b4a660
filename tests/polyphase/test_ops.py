"""The custom ops as PyTorch sees them: gradients, fake tensors, autocast, compile, export."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aps_deploy.polyphase import exact_mean, polyphase_index, polyphase_select, polyphase_take, take_component


def random_map(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("shape", "stride"), [((3, 2, 4, 6), 2), ((2, 3, 6, 9), 3), ((2, 1, 8, 4), 4)])
def test_gradients(shape: tuple[int, ...], stride: int) -> None:
    x = random_map(*shape, dtype=torch.float64).requires_grad_()
    index = polyphase_index(x, stride)
    assert torch.autograd.gradcheck(lambda x: polyphase_take(x, index, stride), x)
    assert torch.autograd.gradgradcheck(lambda x: polyphase_take(x, index, stride), x)
    assert torch.autograd.gradcheck(exact_mean, x)


def test_gradient_reaches_the_kept_component_only() -> None:
    x = random_map(4, 3, 6, 8).requires_grad_()
    y, index = polyphase_select(x)
    y.sum().backward()
    assert x.grad is not None
    kept = take_component(x.grad, index)
    assert torch.equal(kept, torch.ones_like(kept))
    assert float(x.grad.sum()) == kept.numel()
    assert not index.requires_grad


@pytest.mark.parametrize("channels_last", [False, True])
def test_registrations(channels_last: bool) -> None:
    x = random_map(3, 4, 4, 6)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    index = polyphase_index(x)
    ops = torch.ops.aps
    torch.library.opcheck(ops.polyphase_index.default, (x, 2, "l2", "exact"))
    torch.library.opcheck(ops.polyphase_take.default, (x.clone().requires_grad_(), index, 2))
    torch.library.opcheck(ops.polyphase_put.default, (polyphase_take(x, index).requires_grad_(), index, 2, 4, 6))
    torch.library.opcheck(ops.exact_mean.default, (x.clone().requires_grad_(),))


def test_channels_last_maps_stay_channels_last() -> None:
    x = random_map(2, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    y, index = polyphase_select(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, take_component(x, index))


def test_autocast_leaves_the_selection_in_float32() -> None:
    x = random_map(64, 8, 8, 8)
    expected, mean = polyphase_index(x), exact_mean(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(polyphase_index(x), expected)
        assert torch.equal(exact_mean(x), mean)
        assert polyphase_take(x, expected).dtype == torch.float32


class Network(nn.Module):
    """conv, select, mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, index = polyphase_select(self.conv(x))
        return exact_mean(y), index


def test_compiles_without_a_graph_break() -> None:
    network, x = Network().eval(), random_map(2, 3, 8, 8)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    for expected, seen in zip(network(x), compiled(x), strict=True):
        assert torch.equal(expected, seen)
    compiled(x)[0].sum().backward()


def test_exports_with_a_dynamic_batch() -> None:
    network = Network().eval()
    program = torch.export.export(network, (random_map(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},))
    targets = [str(node.target) for node in program.graph.nodes]
    assert [name for name in targets if name.startswith("aps.")] == [
        "aps.polyphase_index.default",
        "aps.polyphase_take.default",
        "aps.exact_mean.default",
    ]
    x = random_map(5, 3, 8, 8, seed=1)
    for expected, seen in zip(network(x), program.module()(x), strict=True):
        assert torch.equal(expected, seen)
