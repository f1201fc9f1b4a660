"""What a run is built of."""

from __future__ import annotations

import copy

import torch

from aps_deploy.models import create_model
from aps_deploy.training.build import moving_average


def test_the_moving_average_follows_its_formula() -> None:
    model = create_model("resnet20_aps3")
    average = moving_average(model, 0.9)
    expected: dict[str, torch.Tensor] = {}
    for step in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(4, 3, 8, 8))  # moves the statistics of the batch norms
        average.update_parameters(model)
        for key, value in copy.deepcopy(model.state_dict()).items():
            if value.is_floating_point():
                expected[key] = value.double() if step == 0 else 0.9 * expected[key] + 0.1 * value.double()
    found = average.module.state_dict()
    assert len(expected) > 100 and any("running_var" in key for key in expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key].double(), value, rtol=1e-5, atol=1e-6)
    blurs = dict(model.named_buffers())
    assert all(torch.equal(value, blurs[key]) for key, value in average.module.named_buffers() if "filter" in key)


def test_the_average_is_another_network() -> None:
    model = create_model("resnet20")
    average = moving_average(model, 0.5)
    average.update_parameters(model)
    before = average.module.conv1.weight.clone()
    with torch.no_grad():
        model.conv1.weight.add_(1)
    assert torch.equal(average.module.conv1.weight, before)
