"""The functions that are registered for CUDA, on tensors that the interpreter takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from aps_deploy.errors import ApsError, InputError
from aps_deploy.plugins.switch import without_kernels
from aps_deploy.plugins.triton import torch_calls, usage
from aps_deploy.plugins.triton.ahead_of_time import compile_kernel
from aps_deploy.plugins.triton.kernels import scores
from aps_deploy.polyphase import blurred_gpu, ops, select, take_component
from tests.plugins.triton.maps import blurred, made


@pytest.fixture(autouse=True)
def _launchable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_why_not_on", lambda device: None)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the kernels' functions, one for each call."""
    found: list[str] = []
    for name in ("choose", "take", "put"):
        function = getattr(torch_calls, name)
        monkeypatch.setattr(
            torch_calls, name, lambda *args, name=name, function=function: (found.append(name), function(*args))[1]
        )
    return found


@pytest.fixture
def on_cpu() -> Iterator[None]:
    """Have the dispatcher take the functions for CUDA on the CPU."""
    with torch.library._scoped_library("aps", "IMPL") as library:
        for name in ("polyphase_index", "polyphase_take", "polyphase_put"):
            library.impl(name, getattr(ops, f"_{name}_on_gpu"), "CPU")
        yield


def test_they_launch_kernels(launches: list[str]) -> None:
    x = made((2, 3, 6, 8)).x
    index = ops._polyphase_index_on_gpu(x, 2, "l_infty", "float")
    taken = ops._polyphase_take_on_gpu(x, index, 2)
    put = ops._polyphase_put_on_gpu(taken, index, 2, 6, 8)
    assert launches == ["choose", "take", "put"]
    assert torch.equal(index, select(x, 2, "linf").index) and torch.equal(taken, take_component(x, index, 2))
    assert int((put != 0).sum()) == taken.numel()


def test_blurred_ones_launch_kernels(launches: list[str]) -> None:
    case = made((2, 3, 6, 8), filter_size=4)
    assert case.filters is not None
    index = blurred_gpu.blurred_index_on_gpu(case.x, case.filters, 2, "l2")
    taken = blurred_gpu.blurred_take_on_gpu(case.x, case.filters, index, 2)
    gradient = blurred_gpu.blurred_put_on_gpu(taken, case.filters, index, 2, 6, 8)
    assert launches == ["choose", "take", "put"]
    map_ = blurred(case.x, case.filters)
    assert torch.equal(index, select(map_, 2).index)
    torch.testing.assert_close(taken, take_component(map_, index, 2), atol=1e-5, rtol=1e-5)
    with without_kernels():
        assert torch.equal(blurred_gpu.blurred_index_on_gpu(case.x, case.filters, 2, "l2"), index)
        other = blurred_gpu.blurred_take_on_gpu(case.x, case.filters, index, 2)
        assert torch.equal(other, take_component(map_, index, 2))
        other_gradient = blurred_gpu.blurred_put_on_gpu(taken, case.filters, index, 2, 6, 8)
    torch.testing.assert_close(gradient, other_gradient, atol=1e-5, rtol=1e-5)
    assert launches == ["choose", "take", "put"]


def test_everything_else_is_left_to_the_operators(launches: list[str]) -> None:
    x = made((2, 3, 10, 20)).x
    for other, stride, selection in ((x.double(), 2, "exact"), (x, 5, "exact"), (x, 2, "float")):
        index = ops._polyphase_index_on_gpu(other, stride, "l2", selection)
        assert torch.equal(index, select(other, stride, "l2", selection).index)  # type: ignore[arg-type]
    for other, stride in ((x.double(), 2), (x, 5)):
        taken = ops._polyphase_take_on_gpu(other, torch.tensor([1, 2]), stride)
        ops._polyphase_put_on_gpu(taken, torch.tensor([1, 2]), stride, 10, 20)
    with without_kernels():
        index = ops._polyphase_index_on_gpu(x, 2, "l2", "exact")
        ops._polyphase_put_on_gpu(ops._polyphase_take_on_gpu(x, index, 2), index, 2, 10, 20)
    assert launches == []


def test_odd_maps_are_refused_as_everywhere(launches: list[str]) -> None:
    x = torch.zeros(1, 1, 5, 4)
    with pytest.raises(InputError, match="5x4"):
        ops._polyphase_index_on_gpu(x, 2, "l2", "exact")
    with pytest.raises(InputError, match="5x4"):
        ops._polyphase_take_on_gpu(x, torch.zeros(1, dtype=torch.int64), 2)
    assert launches == []


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_ops_are_what_pytorch_asks_of_ops(on_cpu: None, launches: list[str], channels_last: bool) -> None:
    x = made((2, 3, 4, 6), channels_last=channels_last).x.requires_grad_()
    index = torch.ops.aps.polyphase_index(x, 2, "l2", "exact")
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.aps.polyphase_index.default, (x, 2, "l2", "exact"), test_utils=tests)
    torch.library.opcheck(torch.ops.aps.polyphase_take.default, (x, index, 2), test_utils=tests)
    y = torch.ops.aps.polyphase_take(x, index, 2).detach().requires_grad_()
    torch.library.opcheck(torch.ops.aps.polyphase_put.default, (y, index, 2, 4, 6), test_utils=tests)
    assert set(launches) == {"choose", "take", "put"}


def test_gradients_of_gradients(on_cpu: None) -> None:
    x = made((2, 2, 4, 4)).x.requires_grad_()
    index = torch.ops.aps.polyphase_index(x, 2, "l2", "exact")
    taken = torch.ops.aps.polyphase_take(x, index, 2)
    (first,) = torch.autograd.grad((taken**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    kept = torch.ops.aps.polyphase_put(torch.ones_like(taken), index, 2, 4, 4)
    torch.testing.assert_close(second, 6 * x * kept)


def test_what_is_interpreted_cannot_be_compiled() -> None:
    with pytest.raises(ApsError, match="TRITON_INTERPRET"):
        compile_kernel(scores.decide, "fp32", {}, 80)
