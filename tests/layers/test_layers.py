"""Blur, padding, APS layer, pooling and classifier head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aps_deploy.errors import InputError
from aps_deploy.layers import (
    APS,
    Blur,
    Classifier,
    ExactGlobalAvgPool,
    LowPassDownsample,
    PadForPool,
    Selections,
    WrappedConv2d,
    binomial_kernel,
    circular_pad,
)
from aps_deploy.polyphase import exporting


def random_map(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", range(1, 8))
def test_blur_is_a_circular_correlation_with_pascals_triangle(size: int) -> None:
    row = np.array([1.0])
    for _ in range(size - 1):
        row = np.convolve(row, [1, 1])
    np.testing.assert_allclose(binomial_kernel(size), np.outer(row, row) / np.outer(row, row).sum(), rtol=1e-6)
    x = random_map(2, 3, 8, 10)
    offset = (size - 1) // 2
    expected = sum(
        float(row[i] * row[j] / row.sum() ** 2) * torch.roll(x, (offset - i, offset - j), (2, 3))
        for i in range(size)
        for j in range(size)
    )
    torch.testing.assert_close(Blur(3, size)(x), expected)
    torch.testing.assert_close(Blur(3, size, stride=2)(x), expected[:, :, ::2, ::2])


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("position", ["before_selection", "after_selection"])
def test_aps_commutes_with_shifts_bit_for_bit(size: int, position: str) -> None:
    layer = APS(6, filter_size=size, blur_position=position)
    x = random_map(4, 6, 10, 14, seed=size)
    y, index = layer(x, Selections())
    for a, b in [(1, 0), (0, 1), (3, 5), (9, 13)]:
        rolled_y, rolled_index = layer(torch.roll(x, (a, b), (2, 3)), Selections())
        for n in range(4):
            dy, dx = int(index[n]) % 2, int(index[n]) // 2
            assert int(rolled_index[n]) == (dy + a) % 2 + 2 * ((dx + b) % 2)
            assert torch.equal(rolled_y[n], torch.roll(y[n], ((dy + a) // 2, (dx + b) // 2), (1, 2)))


def test_blur_position_decides_what_is_compared() -> None:
    # A checkerboard impulse train is strongest at its pixels, but its blur is flat.
    x = random_map(32, 2, 8, 8)
    before, after = APS(2, filter_size=3), APS(2, filter_size=3, blur_position="after_selection")
    blurred = before.blur(x)
    assert torch.equal(before(x, Selections())[1], APS(2)(blurred, Selections())[1])
    assert torch.equal(after(x, Selections())[1], APS(2)(x, Selections())[1])
    assert not torch.equal(before(x, Selections())[1], after(x, Selections())[1])


def test_shortcut_reuses_the_index() -> None:
    layer = APS(2, filter_size=3)
    x = random_map(5, 2, 8, 8)
    y, index = layer(x, Selections())
    assert torch.equal(layer.reuse(x, index), y)
    other = (index + 1) % 4
    assert not torch.equal(layer.reuse(x, other), y)


def test_odd_maps_name_the_layer_or_are_padded_by_request() -> None:
    layer = APS(1)
    layer.layer_name = "layer3.0.pool"
    with pytest.raises(InputError, match=r"layer3\.0\.pool.*7x8.*8x8"):
        layer(torch.zeros(1, 1, 7, 8), Selections())
    x = random_map(1, 1, 7, 8)
    padded, _ = APS(1, odd_maps="pad")(x, Selections())
    assert padded.shape == (1, 1, 4, 4)
    assert torch.equal(padded, APS(1)(circular_pad(x, 0, 0, 0, 1), Selections())[0])


def test_filter_size_one_of_lpf_is_plain_striding() -> None:
    x = random_map(1, 3, 6, 6)
    y, index = LowPassDownsample(3, filter_size=1)(x, Selections())
    assert torch.equal(y, x[:, :, ::2, ::2])
    assert index is None


@pytest.mark.parametrize("size", [0, 8, -1])
def test_filter_sizes_outside_one_to_seven_are_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"{size} is not available; choose 1 to 7"):
        Blur(3, size)


def test_circular_pad_matches_numpy_and_refuses_to_wrap_twice() -> None:
    x = random_map(1, 2, 4, 5)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (3, 4), (1, 2)), mode="wrap")
    np.testing.assert_array_equal(circular_pad(x, 1, 2, 3, 4), expected)
    with pytest.raises(InputError, match="use a larger image"):
        circular_pad(x, 0, 6, 0, 0)


@pytest.mark.parametrize("reach", [(1, 1, 1, 1), (0, 1, 0, 1), (3, 3, 3, 3), (2, 0, 4, 1), (5, 5, 4, 4), (0, 0, 0, 0)])
@pytest.mark.parametrize("last", [False, True])
def test_circular_pad_has_the_gradient_of_pytorchs_own(reach: tuple[int, int, int, int], last: bool) -> None:
    layout = torch.channels_last if last else torch.contiguous_format
    x = random_map(2, 3, 4, 5).contiguous(memory_format=layout).requires_grad_()
    weights = random_map(2, 3, 4 + reach[2] + reach[3], 5 + reach[0] + reach[1], seed=1).contiguous(
        memory_format=layout
    )
    found = []
    for padded in (circular_pad(x, *reach), F.pad(x, reach, mode="circular")):
        assert padded.requires_grad
        found.append((padded.detach(), *torch.autograd.grad((padded * weights).sum(), x)))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])
    assert found[0][1].is_contiguous(memory_format=layout)
    wide = random_map(1, 2, 4, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: circular_pad(x, *reach), wide)
    assert torch.autograd.gradgradcheck(lambda x: circular_pad(x, *reach).square(), wide)


def test_a_compiled_graph_holds_pytorchs_own_padding() -> None:
    convolution = WrappedConv2d(3, 4, 3, padding=1, padding_mode="circular")
    program = torch.export.export(convolution, (random_map(1, 3, 6, 6),))
    assert "aten.pad.default" in {str(node.target) for node in program.graph.nodes}
    x = random_map(2, 3, 6, 6).requires_grad_()
    compiled = torch.compile(convolution, fullgraph=True, backend="aot_eager")
    one, other = (torch.autograd.grad(call(x).square().sum(), x)[0] for call in (convolution, compiled))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("size", "stride", "dilation", "groups"), [(3, 1, 1, 1), (3, 2, 1, 3), (7, 2, 1, 1), (3, 1, 2, 1)]
)
def test_a_wrapped_convolution_is_pytorchs_circular_one(size: int, stride: int, dilation: int, groups: int) -> None:
    arguments = {"stride": stride, "padding": size // 2 * dilation, "dilation": dilation, "groups": groups}
    ours = WrappedConv2d(3, 6, size, padding_mode="circular", **arguments)  # type: ignore[arg-type]
    theirs = torch.nn.Conv2d(3, 6, size, padding_mode="circular", **arguments)  # type: ignore[arg-type]
    theirs.load_state_dict(ours.state_dict())
    x = random_map(2, 3, 8, 10)
    assert torch.equal(ours(x), theirs(x))
    with pytest.raises(InputError, match="use a larger image"):
        ours(random_map(1, 3, 8, size // 2 * dilation - 1))


def test_pad_for_pool() -> None:
    x = F.relu(random_map(1, 2, 4, 4))
    pooled = F.max_pool2d(PadForPool("circular")(x), 2, 1)
    rolls = [torch.roll(x, (-a, -b), (2, 3)) for a in (0, 1) for b in (0, 1)]
    assert torch.equal(pooled, torch.stack(rolls).amax(0))
    assert F.max_pool2d(PadForPool("zeros")(x), 2, 1).shape == x.shape


@pytest.mark.parametrize("classes", [10, 1000])
def test_classifier_gives_a_row_the_same_bits_in_every_batch(classes: int) -> None:
    head = Classifier(512, classes).eval()
    x = random_map(32, 512)
    with torch.no_grad():
        whole = head(x)
        for batch in (1, 2, 5, 7, 8, 31):
            assert torch.equal(head(x[:batch]), whole[:batch])
        torch.testing.assert_close(whole, F.linear(x, head.weight, head.bias), rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(head(x), whole)
        with exporting():
            assert torch.equal(head(x), F.linear(x, head.weight, head.bias))


def test_pool_is_plain_in_training_and_exact_in_evaluation() -> None:
    x = random_map(2, 3, 7, 7)
    pool = ExactGlobalAvgPool()
    assert torch.equal(pool(x), x.mean((2, 3)))
    pool.eval()
    assert torch.equal(pool(x), pool(torch.roll(x, (2, 5), (2, 3))))


def test_forced_indices_are_checked() -> None:
    layer = APS(1)
    x = random_map(2, 1, 4, 4)
    forced = torch.tensor([[3], [1]])
    y, index = layer(x, Selections(forced))
    assert index.tolist() == [3, 1]
    assert torch.equal(y[0], x[0, :, 1::2, 1::2])
    for bad in (torch.tensor([[4], [0]]), torch.tensor([[0]]), torch.zeros(2, 0)):
        with pytest.raises(InputError, match="forced indices"):
            layer(x, Selections(bad))
