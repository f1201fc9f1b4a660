"""What must hold of the kernels on any map and any device that runs them: the interpreter's CPU, or a GPU."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from aps_deploy.plugins.triton.torch_calls import choose, put, score, select, take
from aps_deploy.polyphase import select as definition
from aps_deploy.polyphase import take_component
from tests.plugins.triton.maps import Case, blurred, is_channels_last

# Float32 sums in another order; with filters also one rounding to the type of the map, half a unit in its last place.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def close(found: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCES[found.dtype]
    torch.testing.assert_close(found.float(), expected.float(), atol=tolerance, rtol=tolerance)


def components(case: Case) -> list[Tensor]:
    """Return every component of the blurred map as the kernels compute it."""
    batch = len(case.x)
    numbers = range(case.stride**2)
    constant = (torch.full((batch,), number, dtype=torch.int64, device=case.x.device) for number in numbers)
    return [take(case.x, index, case.stride, case.filters) for index in constant]


def assembled(case: Case) -> Tensor:
    """Return the blurred map as the kernels compute it, put together from its components."""
    whole = torch.empty_like(case.x, memory_format=torch.contiguous_format)
    for number, component in enumerate(components(case)):
        whole[:, :, number % case.stride :: case.stride, number // case.stride :: case.stride] = component
    return whole


def total_scores(case: Case) -> Tensor:
    partial = score(case.x, case.stride, case.criterion, case.filters)
    return partial.amax(1) if case.criterion in ("linf", "max") else partial.sum(1)


def moved_by(index: Tensor, stride: int, down: int, right: int) -> tuple[Tensor, Tensor]:
    """Return dy and dx of a component after a shift, not yet modulo the stride."""
    return index % stride + down, index // stride + right


def check_choice(case: Case) -> None:
    """The choice is the definition's on the map that the kernels see, unless its two best components nearly tie."""
    expected = definition(assembled(case), case.stride, case.criterion)  # type: ignore[arg-type]
    index = choose(case.x, case.stride, case.criterion, case.filters)
    assert index.dtype == torch.int64
    assert (index == expected.index)[expected.margin > 1e-6].all()


def check_take(case: Case) -> None:
    """Every component is the definition's: bit by bit, or rounded otherwise where a blur is computed."""
    exact = blurred(case.x.float(), case.filters)
    for number, component in enumerate(components(case)):
        index = torch.full((len(case.x),), number, device=case.x.device)
        expected = take_component(exact, index, case.stride)
        assert component.dtype == case.x.dtype
        assert component.is_contiguous() or is_channels_last(case.x)
        if case.filters is None:
            assert torch.equal(component.float(), expected)
        close(component, expected)


def check_select(case: Case) -> None:
    """The kernels of a plugin give what choosing and then taking gives."""
    y, index = select(case.x, case.stride, case.criterion, case.filters)
    assert torch.equal(index, choose(case.x, case.stride, case.criterion, case.filters))
    assert torch.equal(y, take(case.x, index, case.stride, case.filters))
    assert y.stride() == take(case.x, index, case.stride, case.filters).stride()


def check_shift(case: Case, down: int, right: int) -> None:
    """A circular shift permutes the scores, moves the choice and changes no bit of what is kept."""
    stride, moved = case.stride, case.rolled(down, right)
    numbers = torch.arange(stride**2, device=case.x.device)
    dy, dx = moved_by(numbers, stride, down, right)
    destination = dy % stride + stride * (dx % stride)
    assert torch.equal(total_scores(moved)[:, destination], total_scores(case))
    index = choose(case.x, stride, case.criterion, case.filters)
    best = total_scores(case).sort(dim=1).values
    is_unique = best[:, 0] != best[:, 1] if case.criterion.endswith("_min") else best[:, -1] != best[:, -2]
    moved_index = choose(moved.x, stride, case.criterion, case.filters)
    assert torch.equal(moved_index[is_unique], destination[index][is_unique])
    taken = take(case.x, index, stride, case.filters)
    moved_taken = take(moved.x, destination[index], stride, case.filters)
    dy, dx = moved_by(index, stride, down, right)
    for n in range(len(index)):
        # The component itself moves by whole steps where the shift carries it over the border.
        steps = int(dy[n]) // stride, int(dx[n]) // stride
        assert torch.equal(moved_taken[n], torch.roll(taken[n], steps, (1, 2)))


def check_neighbours(case: Case) -> None:
    """Neither the batch nor the layout changes a bit."""
    flat = Case(case.x.contiguous(), case.filters, case.stride, case.criterion)
    last = Case(case.x.to(memory_format=torch.channels_last), case.filters, case.stride, case.criterion)
    index = choose(flat.x, case.stride, case.criterion, case.filters)
    assert torch.equal(total_scores(flat), total_scores(last))
    assert torch.equal(
        take(flat.x, index, case.stride, case.filters), take(last.x, index, case.stride, case.filters).contiguous()
    )
    for n in range(len(index)):
        alone = Case(flat.x[n : n + 1], case.filters, case.stride, case.criterion)
        assert torch.equal(total_scores(alone), total_scores(flat)[n : n + 1])


def check_gradient(case: Case) -> None:
    """The gradient is autograd's through the definition: bit by bit, or rounded otherwise where a blur is computed."""
    batch, channels, height, width = case.x.shape
    index = torch.arange(batch, device=case.x.device) * 3 % case.stride**2
    taken = take(case.x, index, case.stride, case.filters)
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(taken.shape, generator=generator).to(taken)
    gradient = gradient.contiguous(
        memory_format=torch.channels_last if is_channels_last(case.x) else torch.contiguous_format
    )
    x = case.x.detach().float().requires_grad_()
    take_component(blurred(x, case.filters), index, case.stride).backward(gradient.float())
    found = put(gradient, index, case.stride, height, width, case.filters)
    assert x.grad is not None and found.shape == (batch, channels, height, width) and found.dtype == case.x.dtype
    if case.filters is None:
        assert torch.equal(found.float(), x.grad)
    close(found, x.grad)


def check_all(case: Case, shifts: Iterable[tuple[int, int]]) -> None:
    """Everything above, under every shift (down, right)."""
    check_choice(case)
    check_take(case)
    check_select(case)
    check_neighbours(case)
    check_gradient(case)
    for down, right in shifts:
        check_shift(case, down, right)
