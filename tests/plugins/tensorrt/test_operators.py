"""The names of the plugins' operators: unlike any other of the domain, and everything is read back from them."""

from __future__ import annotations

import pytest

from aps_deploy.export.bodies import decision_op
from aps_deploy.export.op_names import choice_of, is_blurred, take_stride_of
from aps_deploy.plugins.tensorrt.operators import PluginOperator, operator_of, operators_of
from aps_deploy.polyphase import CRITERIA

SUMMED = ("l2", "l1", "l2_min", "l1_min")
ALL = sorted(
    {operator for criterion in SUMMED for stride in (2, 3, 4) for operator in operators_of(criterion, stride) or ()},
    key=lambda operator: operator.op_type,
)


def test_the_types() -> None:
    assert [operator.op_type for operator in ALL] == [
        *("PolyphaseBest", "PolyphaseBest_S3", "PolyphaseBest_S4", "PolyphaseEnergy_L1", "PolyphaseEnergy_L2"),
        *("PolyphaseLeast", "PolyphaseLeast_S3", "PolyphaseLeast_S4"),
        *("PolyphaseScore", "PolyphaseScore_S3", "PolyphaseScore_S4"),
    ]


@pytest.mark.parametrize("operator", ALL, ids=lambda operator: operator.op_type)
def test_everything_is_in_the_type(operator: PluginOperator) -> None:
    assert operator_of(operator.op_type) == operator
    # The CPU kernels are registered under the other names, with other inputs.
    assert choice_of(operator.op_type) is None
    assert take_stride_of(operator.op_type) is None
    assert not is_blurred(operator.op_type)


@pytest.mark.parametrize(
    "op_type",
    [
        *("PolyphaseEnergy_L2_S2", "PolyphaseEnergy_L2_S3", "PolyphaseEnergy_Linf", "PolyphaseScore_S2"),
        *("PolyphaseBest_S5", "PolyphaseSelect_L2", "PolyphaseIndex_L2", "PolyphaseTake", "BlurredTake", "Conv", ""),
        *(decision_op(operator) for operator in ALL if operator.kind == "select"),
    ],
)
def test_other_types_are_none_of_them(op_type: str) -> None:
    assert operator_of(op_type) is None


def test_three_operators_hand_on_what_the_next_takes() -> None:
    energy, score, select = operators_of("l1_min", 3) or ()
    assert [operator.num_inputs for operator in (energy, score, select)] == [1, 2, 2]
    assert [operator.num_outputs for operator in (energy, score, select)] == [2, 1, 2]
    assert (energy.power, score.stride, select.stride, select.smallest) == (1, 3, 3, True)


def test_selections_without_kernels_have_no_operators() -> None:
    assert {name for name in CRITERIA if operators_of(name, 2) is None} == {"linf", "max"}
    assert operators_of("l2", 5) is None
