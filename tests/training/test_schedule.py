"""The learning rate against PyTorch's own schedulers and its stated shape."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from aps_deploy.training.schedule import Schedule


def test_step_is_steplr() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.StepLR(optimizer, step_size=100, gamma=0.1)
    schedule = Schedule("step", 0.1, 250, steps_per_epoch=3, step_epochs=100, step_factor=0.1)
    for epoch in range(250):
        for step in range(3):
            assert schedule.at(3 * epoch + step) == pytest.approx(reference.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        reference.step()


def test_milestones_are_multisteplr() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[3, 5, 6], gamma=0.2)
    schedule = Schedule("milestones", 0.1, 9, steps_per_epoch=4, milestones=(3, 5, 6), step_factor=0.2)
    for epoch in range(9):
        for step in range(4):
            assert schedule.at(4 * epoch + step) == pytest.approx(reference.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        reference.step()


def test_one_cycle_rises_to_the_peak_and_falls_to_nothing() -> None:
    schedule = Schedule("one-cycle", 0.4, 10, steps_per_epoch=20, warmup_share=0.25)
    rates = [schedule.at(step) for step in range(200)]
    assert rates[50] == max(rates) == 0.4
    assert all(low < high for low, high in pairwise(rates[:51]))
    assert all(low > high for low, high in pairwise(rates[50:]))
    assert 0 < rates[-1] < 1e-4 and rates[0] == pytest.approx(0.04)


def test_cosine_is_cosineannealing() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    schedule = Schedule("cosine", 0.1, 10, steps_per_epoch=3)
    for step in range(30):
        assert schedule.at(step) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_one_cycle_of_a_single_step(share: float) -> None:
    rate = Schedule("one-cycle", 0.4, 1, steps_per_epoch=1, warmup_share=share).at(0)
    assert 0 < rate <= 0.4


def test_constant() -> None:
    assert {Schedule("constant", 0.3, 2, 2).at(step) for step in range(4)} == {0.3}
