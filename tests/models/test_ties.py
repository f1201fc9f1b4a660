"""Which networks are said to tie, against the margins of random networks on random images."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from aps_deploy.cli import app
from aps_deploy.errors import TiedSelectionWarning
from aps_deploy.layers import Blur
from aps_deploy.models import create_model
from aps_deploy.polyphase import Criterion, select
from tests.models.test_resnet import images, informative

CRITERIA: tuple[Criterion, ...] = ("l2", "l1", "linf", "max", "l2_min", "l1_min")

# A margin that only the rounding of a float32 blur makes is below its epsilon, 1.2e-7.
ROUNDING = 1e-6


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", ["resnet20_aps1", "resnet20_aps3", "resnet18_aps1", "resnet18_aps2", "resnet18_aps3"])
def test_warned_of_are_those_whose_margins_are_rounding(name: str, criterion: Criterion) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = informative(name, criterion=criterion)
    with torch.inference_mode():
        margins = model.trace_selections(images(6, 64 if name.startswith("resnet18") else 32)).margins
    some_layer_ties = bool((margins.amax(dim=0) < ROUNDING).any())
    assert [warning.category for warning in caught] == [TiedSelectionWarning] * some_layer_ties


def test_a_blurred_map_of_any_sign_has_norms_of_its_own() -> None:
    """The reason holds for what comes from a ReLU only."""
    blur, maps = Blur(16, 3), images(4, 32).repeat(1, 6, 1, 1)[:, :16]
    assert select(blur(maps.relu()), criterion="l1").margin.max() < ROUNDING
    assert select(blur(maps), criterion="l1").margin.min() > ROUNDING


def test_the_command_line_says_it_in_one_sentence(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(create_model("resnet18_aps3", num_classes=2).state_dict(), weights)
    target = tmp_path / "model.safetensors"
    result = CliRunner().invoke(
        app, ["import", str(weights), "--arch", "resnet18_aps3", "--criterion", "l1", "-o", str(target)]
    )
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if "criterion" in line]
    assert line.startswith("Warning: the criterion l1 ties in every image in resnet18_aps3")
    assert line.endswith("use the criterion l2.")
