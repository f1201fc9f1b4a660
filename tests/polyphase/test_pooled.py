"""The pool of the stem: PyTorch's values and gradients, ties and special values included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aps_deploy.layers import APS, Selections
from aps_deploy.models.stems import SampledStemPool
from aps_deploy.plugins.cpu import library
from aps_deploy.plugins.switch import without_kernels
from aps_deploy.polyphase import exporting
from aps_deploy.polyphase.pooled import fits_pool_kernel, wrapped_pool


@pytest.fixture(autouse=True)
def _kernels() -> None:
    reason = library.why_unavailable()
    if reason is not None:
        pytest.skip(f"the CPU kernels: {reason}")


def standard(x: Tensor) -> Tensor:
    return F.max_pool2d(F.pad(x, (0, 1, 0, 1), mode="circular"), kernel_size=2, stride=1)


def random_map(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


sizes = st.integers(1, 3), st.integers(1, 4), st.integers(1, 20), st.integers(1, 70)


@settings(deadline=None, max_examples=60)
@given(st.tuples(*sizes), st.sampled_from(["plain", "ties", "special"]), st.integers(0, 2**31))
def test_values_and_gradients_are_pytorchs(shape: tuple[int, int, int, int], kind: str, seed: int) -> None:
    x = random_map(*shape, seed=seed)
    if kind == "ties":
        x = x.round().relu()
    if kind == "special":
        x.view(-1)[::7] = float("nan")
        x.view(-1)[1::5] = -float("inf")
    x.requires_grad_()
    pooled, expected = wrapped_pool(x), standard(x)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)
    weights = random_map(*shape, seed=seed + 1)
    (grad,), (expected_grad,) = (torch.autograd.grad(y, x, weights) for y in (pooled, expected))
    torch.testing.assert_close(grad, expected_grad, rtol=1e-6, atol=1e-6)


def test_second_derivatives() -> None:
    found = []
    x, weights = random_map(2, 3, 4, 5).requires_grad_(), random_map(2, 3, 4, 5, seed=1)
    for pool in (wrapped_pool, standard):
        (first,) = torch.autograd.grad(pool(x).pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad((first * weights).sum(), x)[0])
    torch.testing.assert_close(found[0], found[1])


def test_threads_change_no_bit() -> None:
    x, weights = random_map(3, 5, 6, 7).requires_grad_(), random_map(3, 5, 6, 7, seed=1)
    before, found = torch.get_num_threads(), []
    for num_threads in (1, 2, 5):
        torch.set_num_threads(num_threads)
        y = wrapped_pool(x)
        found.append((y.detach(), *torch.autograd.grad(y, x, weights)))
    torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_registrations() -> None:
    x = random_map(2, 3, 4, 6).requires_grad_()
    kept = torch.ops.aps.wrapped_pool(x)[1]
    torch.library.opcheck(torch.ops.aps.wrapped_pool.default, (x,))
    torch.library.opcheck(torch.ops.aps.wrapped_spread.default, (random_map(2, 3, 4, 6).requires_grad_(), kept))


def test_what_the_kernel_leaves_to_pytorch() -> None:
    x = random_map(2, 3, 4, 6)
    assert fits_pool_kernel(x)
    assert not fits_pool_kernel(x.double())
    assert not fits_pool_kernel(x.contiguous(memory_format=torch.channels_last))
    with exporting():
        assert not fits_pool_kernel(x)
    with without_kernels():
        assert not fits_pool_kernel(x)


@pytest.mark.parametrize("padding", ["circular", "zeros"])
def test_a_stem_uses_it_where_the_map_is_periodic(padding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from aps_deploy.plugins.cpu import torch_calls

    called = []
    pool = torch_calls.pool
    monkeypatch.setattr(torch_calls, "pool", lambda x: (called.append(1), pool(x))[1])
    stem = SampledStemPool(APS(3), APS(3), padding, pad_pool=True)  # type: ignore[arg-type]
    x = random_map(2, 3, 8, 8).relu()
    y = stem(x, Selections())
    assert len(called) == (1 if padding == "circular" else 0)
    with without_kernels():
        assert torch.equal(stem(x, Selections()), y)
    assert len(called) == (1 if padding == "circular" else 0)
