"""What a run is built of."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from aps_deploy.models import SelectingNetwork, create_model
from aps_deploy.training.build import moving_average, ramped_decay


def test_the_moving_average_follows_its_formula() -> None:
    model = create_model("resnet20_aps3")
    average = moving_average(model, 0.2)  # reached in the third update
    expected: dict[str, torch.Tensor] = {}
    for step in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(4, 3, 8, 8))  # moves the statistics of the batch norms
        average.update_parameters(model)
        for key, value in copy.deepcopy(model.state_dict()).items():
            if value.is_floating_point():
                decay = (0, 2 / 11, 0.2, 0.2)[step]
                expected[key] = decay * expected.get(key, 0) + (1 - decay) * value.double()
    found = average.module.state_dict()
    assert len(expected) > 100 and any("running_var" in key for key in expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key].double(), value, rtol=1e-5, atol=1e-6)
    blurs = dict(model.named_buffers())
    assert all(torch.equal(value, blurs[key]) for key, value in average.module.named_buffers() if "filter" in key)


def test_the_decay_rises_to_the_one_that_was_chosen() -> None:
    decays = [ramped_decay(0.9999, count) for count in range(200_000)]
    assert decays[1] == 2 / 11 and decays[1:] == sorted(decays[1:])
    assert decays[1_000] == 1001 / 1010 and decays[-1] == 0.9999


def test_the_average_of_a_short_run_forgets_its_start() -> None:
    """Of the first step's weights 20 updates leave a millionth, also with a decay for runs of 100,000 steps."""
    model = nn.Linear(1, 1, bias=False)
    average = moving_average(cast(SelectingNetwork, model), 0.9999)
    nn.init.constant_(model.weight, 1)
    average.update_parameters(model)
    nn.init.constant_(model.weight, 0)
    for _ in range(20):
        average.update_parameters(model)
    assert 0 < average.module.weight.item() < 1e-5


def test_the_average_is_another_network() -> None:
    model = create_model("resnet20")
    average = moving_average(model, 0.5)
    average.update_parameters(model)
    before = average.module.conv1.weight.clone()
    with torch.no_grad():
        model.conv1.weight.add_(1)
    assert torch.equal(average.module.conv1.weight, before)
