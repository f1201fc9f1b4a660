"""One optimizer step: accumulation, compilation, dropout, and the time spent waiting for images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from aps_deploy.models import SelectingNetwork, create_model
from aps_deploy.plugins.switch import without_kernels
from aps_deploy.training import step
from aps_deploy.training.build import build_trainer
from aps_deploy.training.images import UNREADABLE
from aps_deploy.training.precision import find_arithmetic
from aps_deploy.training.process import Process
from aps_deploy.training.recipes import RECIPES
from aps_deploy.training.state import Position
from aps_deploy.training.step import Trainer
from tests.training.ranks import run_ranks

RECIPE = dataclasses.replace(RECIPES["fast"], batch_size=8, precision="float32", learning_rate=0.1)


def trainer_of(
    model: nn.Module, *, process: Process | None = None, gathers_statistics: bool = False, **changes: Any
) -> Trainer:
    return build_trainer(
        cast(SelectingNetwork, model),
        dataclasses.replace(RECIPE, **changes),
        find_arithmetic("float32", torch.device("cpu")),
        num_images=16,
        channels_last=False,
        compile_model=False,
        process=process or Process(),
        gathers_statistics=gathers_statistics,
    )


def small_network(*more: nn.Module) -> nn.Module:
    """Return a network whose images do not meet each other, as they would in a batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), *more, nn.Linear(8 * 30 * 30, 10))


def batch(num: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (num, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images, torch.arange(num) % 10


def weights_after(trainer: Trainer, labels: Tensor | None = None) -> list[Tensor]:
    images, own = batch()
    trainer.step(images, own if labels is None else labels, 8, 0, 0)
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulated_parts_are_the_whole_batch(parts: int) -> None:
    whole, start = weights_after(trainer_of(small_network())), list(small_network().parameters())
    accumulated = weights_after(trainer_of(small_network(), accumulate=parts))
    for one, other, before in zip(whole, accumulated, start, strict=True):
        assert not torch.equal(one, before)
        torch.testing.assert_close(other - before, one - before, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(3, 2), (2, 2), (1, 2), (5, 4), (7, 3), (16, 4), (10, 1)])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_process_takes_as_many_parts(batch_size: int, accumulate: int, world_size: int) -> None:
    """With gathered statistics: the parts of one process, each image in one of them."""
    trainer = trainer_of(small_network(), accumulate=accumulate)
    alone = trainer.sizes_of_parts(batch_size)
    assert alone == [len(part) for part in torch.arange(batch_size).chunk(accumulate)]
    trainer.gathers_statistics, found = True, []
    for rank in range(world_size):
        trainer.process = Process(rank, world_size, rank)
        found.append(trainer.sizes_of_parts(batch_size))
        assert sum(found[-1]) == len(torch.arange(batch_size)[rank::world_size])
    assert [sum(sizes) for sizes in zip(*found, strict=True)] == alone


def test_a_process_without_gathered_statistics_cuts_its_own_share() -> None:
    trainer = trainer_of(small_network(), accumulate=2)
    for rank, expected in enumerate([[1, 1], [1]]):
        trainer.process = Process(rank, 2, rank)
        assert trainer.sizes_of_parts(3) == expected
    assert trainer.sizes_of_parts(1) == [1]  # the image that weighs nothing


def normalised_network() -> nn.Module:
    """Return a network whose images meet each other in a batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(8 * 16, 10)
    )


def gradients_of_steps(process: Process) -> list[dict[str, Tensor]]:
    """Return the gradients and statistics after a step of three images, and after one of a single image."""
    trainer = trainer_of(normalised_network(), process=process, gathers_statistics=True, accumulate=2)
    images, labels = batch()
    found = []
    for number, batch_size in enumerate((3, 1)):
        own = trainer.share_of(torch.arange(batch_size))
        trainer.step(images[own], labels[own], batch_size, 0, number)
        gradients = {name: cast(Tensor, value.grad) for name, value in trainer.model.named_parameters()}
        found.append({name: value.clone() for name, value in (gradients | dict(trainer.model.named_buffers())).items()})
    return found


@pytest.mark.slow
def test_accumulated_parts_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    """An odd batch in two parts, and a batch with no image for one process: none waits, no image counts twice."""
    expected = gradients_of_steps(Process())
    for found in run_ranks(gradients_of_steps, tmp_path / "ranks"):
        for one, other in zip(expected, found, strict=True):
            assert one.keys() == other.keys()
            for name, value in one.items():
                torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6)


def test_an_unreadable_image_has_no_gradient() -> None:
    _, labels = batch()
    found = labels.clone()
    found[3] = UNREADABLE
    trainer = trainer_of(small_network())
    images, _ = batch()
    sums = trainer.step(images, found, 8, 0, 0)
    assert sums[2] == 1
    others = torch.arange(8) != 3
    reference = small_network()
    again = trainer_of(reference)
    inputs = again._inputs(images, 8, 0, 0)[others]
    losses = nn.functional.cross_entropy(
        reference(inputs), labels[others], label_smoothing=RECIPE.label_smoothing, reduction="none"
    )
    assert float(sums[0]) == pytest.approx(float(losses.detach().sum()), rel=1e-5)
    (losses.sum() / 8).backward()
    for parameter, expected in zip(trainer.model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-7)


def test_dropout_depends_on_the_place_only() -> None:
    """A process that is started again has another generator state than one that was not."""
    one = weights_after(trainer_of(small_network(nn.Dropout(0.5))))
    trainer = trainer_of(small_network(nn.Dropout(0.5)))
    torch.manual_seed(123)
    assert all(torch.equal(a, b) for a, b in zip(one, weights_after(trainer), strict=True))


@pytest.mark.parametrize("name", ["resnet20", "resnet20_lpf3", "resnet20_aps3", "resnet18_aps2", "cifar_resnet50_aps1"])
def test_no_network_breaks_the_graph_in_training(name: str) -> None:
    model = create_model(name, num_classes=3).train()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = compiled(torch.randn(2, 3, 32, 32))
    logits.float().square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.slow
def test_a_compiled_step_is_the_step() -> None:
    """Forward and backward are traced as one graph each; the selections are the same."""
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = create_model("resnet20_aps3", num_classes=10)
        trainer = trainer_of(model)
        if compiled:
            trainer.forward = torch.compile(model, fullgraph=True, backend="aot_eager")
        trainer.model.train()
        found.append((weights_after(trainer), float(trainer.schedule.at(0))))
    for one, other in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "num_steps", "tolerance"),
    # Roundings grow from step to step: another side of a ReLU's corner for one value is another gradient.
    [("resnet20_aps3", 1, 1e-4), ("resnet20_aps1", 1, 1e-4), ("resnet18_aps3", 1, 1e-4), ("resnet20_aps3", 3, 1e-2)],
)
def test_steps_with_the_kernels_are_steps_without(name: str, num_steps: int, tolerance: float) -> None:
    """What the weights moved by; twice with the kernels they are the same bits."""

    def moved() -> Tensor:
        torch.manual_seed(0)
        trainer = trainer_of(create_model(name, num_classes=10))
        start = nn.utils.parameters_to_vector(trainer.model.parameters()).detach().clone()
        trainer.model.train()
        for number in range(num_steps):
            trainer.step(*batch(), 8, 0, number)
        return nn.utils.parameters_to_vector(trainer.model.parameters()).detach() - start

    found = moved()
    assert torch.equal(moved(), found)
    with without_kernels():
        expected = moved()
    assert float((found - expected).norm() / expected.norm()) < tolerance


def test_waiting_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(step.time, "monotonic", lambda: clock[0])

    def slow() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(3):
            clock[0] += 2
            yield batch(1)

    position = Position()
    for _ in step._timed(slow(), position):
        clock[0] += 5
    assert position.waiting_seconds == 6
