"""Batch norm over several processes against PyTorch's own: here with one, in tests/training/test_launch.py with two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from aps_deploy import create_model
from aps_deploy.training.batch_norm import GatheredBatchNorm2d, gather_statistics


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_values_gradients_and_running_statistics() -> None:
    generator = torch.Generator().manual_seed(3)
    reference = nn.BatchNorm2d(5)
    with torch.no_grad():
        reference.weight.uniform_(0.5, 2, generator=generator)
        reference.bias.uniform_(-1, 1, generator=generator)
    holder = nn.Sequential(reference)
    gathered = nn.Sequential(nn.BatchNorm2d(5))
    gathered.load_state_dict(holder.state_dict())
    gather_statistics(gathered, torch.device("cpu"))
    assert isinstance(gathered[0], GatheredBatchNorm2d)
    for _ in range(3):
        maps = torch.randn(4, 5, 6, 7, generator=generator) * 3 + 10
        results = []
        for module in (holder, gathered):
            given = maps.clone().requires_grad_()
            out = module(given)
            (out * maps.cos()).sum().backward()
            results.append((out, given.grad))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gathered.state_dict(), holder.state_dict(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gathered[0].weight.grad, holder[0].weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gathered.eval()(maps), holder.eval()(maps))


def test_every_batch_norm_of_a_network_and_no_name_changes() -> None:
    model = create_model("resnet20_aps3", num_classes=10)
    names = list(model.state_dict())
    gather_statistics(model, torch.device("cpu"))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(isinstance(module, GatheredBatchNorm2d) for module in norms)
    assert list(model.state_dict()) == names
