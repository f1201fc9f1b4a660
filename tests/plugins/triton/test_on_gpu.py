"""The kernels on a GPU: the properties that the interpreter shows on small maps, on those of real networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="the kernels: Triton is not installed")

from aps_deploy.models import create_model
from aps_deploy.plugins.switch import without_kernels
from aps_deploy.plugins.triton import usage
from aps_deploy.plugins.triton.torch_calls import choose, take
from aps_deploy.polyphase import CRITERIA, polyphase_select
from aps_deploy.polyphase import select as definition
from tests.gpus import needs_torch_cuda
from tests.plugins.triton import checks
from tests.plugins.triton.maps import DTYPES, Case, drawn_case, drawn_settings, made, setting_name

pytestmark = [pytest.mark.gpu, needs_torch_cuda]

# What the networks sample, odd multiples of the stride, one channel, more than a block of everything.
SHAPES = {
    2: ((8, 64, 56, 56), (5, 128, 28, 28), (4, 512, 14, 14), (1, 64, 224, 224), (3, 1, 6, 10), (2, 37, 30, 42)),
    3: ((2, 65, 57, 63), (3, 7, 9, 15)),
    4: ((2, 96, 56, 60), (1, 3, 512, 512)),
}
SETTINGS = [(stride, shape) for stride, shapes in SHAPES.items() for shape in shapes]


@pytest.fixture(autouse=True)
def _on_a_gpu() -> Iterator[None]:
    if usage.kernels_on(torch.device("cuda", 0)) is None:
        pytest.fail(f"the GPU kernels are not used: {usage.why_unavailable() or 'see the log'}")
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


@pytest.mark.parametrize("filter_size", [1, 3, 4])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("stride", "shape"), SETTINGS)
def test_every_property(
    stride: int, shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool, filter_size: int
) -> None:
    case = made(shape, stride=stride, filter_size=filter_size, dtype=dtype, channels_last=channels_last, device="cuda")
    checks.check_all(case, [(1, 0), (0, 1), (3, 5), (shape[2] - 1, shape[3] // 2)])


@pytest.mark.parametrize("setting", drawn_settings(24, most_channels=200, most_steps=40), ids=setting_name)
def test_every_property_of_maps_that_nobody_chose(setting: dict[str, Any]) -> None:
    case = drawn_case(**setting, device="cuda")
    checks.check_all(case, [(1, 0), (0, 1), (setting["shape"][2] - 1, setting["shape"][3] // 2)])


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("filter_size", [1, 3])
def test_every_criterion(criterion: str, filter_size: int, dtype: torch.dtype) -> None:
    case = made((4, 48, 28, 36), criterion=criterion, filter_size=filter_size, dtype=dtype, device="cuda")
    checks.check_choice(case)
    checks.check_shift(case, 5, 2)
    case.x[1, 3, 4, 5] = float("nan")
    case.x[2, 3, 4, 5] = -float("inf")
    assert choose(case.x, 2, criterion, case.filters)[1:3].tolist() == [0, 0]


def test_whole_numbers_are_those_of_the_definition() -> None:
    case = made((3, 1, 26, 34), seed=7, device="cuda")
    assert torch.equal(checks.total_scores(case), definition(case.x, 2, "l2").scores)


def test_a_thousand_runs_give_the_same_bits() -> None:
    case = made((16, 64, 28, 28), filter_size=3, device="cuda")
    expected = checks.total_scores(case)
    for _ in range(1000):
        assert torch.equal(checks.total_scores(case), expected)


def test_the_ops_are_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from aps_deploy.plugins.triton import torch_calls

    x = made((2, 8, 16, 16), device="cuda").x
    monkeypatch.setattr(torch_calls, "choose", lambda *arguments: torch.full((2,), 3, device="cuda"))
    assert polyphase_select(x)[1].tolist() == [3, 3]
    with without_kernels():
        assert torch.equal(polyphase_select(x)[1], definition(x).index)


def test_gradients_through_the_ops(dtype: torch.dtype) -> None:
    x = made((3, 16, 14, 14), dtype=dtype, device="cuda").x.requires_grad_()
    taken, _ = polyphase_select(x)
    taken.square().sum().backward()
    with without_kernels():
        other = x.detach().clone().requires_grad_()
        polyphase_select(other)[0].square().sum().backward()
    assert x.grad is not None and other.grad is not None and torch.equal(x.grad, other.grad)


def test_compiled_they_stay_whole() -> None:
    x = made((3, 16, 14, 14), device="cuda").x.requires_grad_()
    expected, expected_index = polyphase_select(x)
    taken, index = torch.compile(polyphase_select, fullgraph=True)(x)
    assert torch.equal(taken, expected) and torch.equal(index, expected_index)
    (gradient,) = torch.autograd.grad(taken.sum(), x)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), x)
    assert torch.equal(gradient, expected_gradient)


def test_they_run_in_a_graph_of_launches() -> None:
    case = made((4, 64, 28, 28), filter_size=3, device="cuda")
    x = case.x.clone()
    choose(x, 2, "l2", case.filters)  # compiles
    take(x, choose(x, 2, "l2"), 2, case.filters)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        index = choose(x, 2, "l2", case.filters)
        taken = take(x, index, 2, case.filters)
    for seed in (1, 2):
        other = made((4, 64, 28, 28), seed=seed, device="cuda")
        x.copy_(other.x)
        graph.replay()
        assert torch.equal(index, choose(other.x, 2, "l2", case.filters))
        assert torch.equal(taken, take(other.x, index, 2, case.filters))


@pytest.mark.parametrize("name", ["resnet18_aps3", "resnet20_aps3", "resnet20_aps2"])
def test_networks_answer_alike_with_and_without(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=7).eval().cuda()
    images = torch.randn(4, 3, 64, 64, device="cuda")
    with torch.inference_mode():
        logits, indices = model.forward_with_selection(images)
        with without_kernels():
            expected_logits, expected_indices = model.forward_with_selection(images)
    assert torch.equal(indices, expected_indices)
    torch.testing.assert_close(logits, expected_logits, atol=1e-4, rtol=1e-4)


def test_a_whole_map_moves_with_its_case() -> None:
    # The largest map of the benchmark, one image: 32 parts of the score, thousands of block maxima.
    case = Case(torch.randn(1, 64, 1024, 1024, device="cuda"), None, 2, "l2")
    checks.check_choice(case)
    checks.check_shift(case, 511, 3)
