from __future__ import annotations

import pytest

from aps_deploy.export.op_names import Choice, choice_of, index_op, select_op, take_op, take_stride_of
from aps_deploy.polyphase import CRITERIA, SELECTION_MODES


def test_names_say_everything_a_body_depends_on() -> None:
    choices = [Choice(c, m, s) for c in CRITERIA for m in SELECTION_MODES for s in (2, 3, 12)]
    names = [name(choice) for choice in choices for name in (index_op, select_op)] + [take_op(s) for s in (2, 3, 12)]
    assert len(set(names)) == len(names)
    for choice in choices:
        assert choice_of(index_op(choice)) == choice_of(select_op(choice)) == choice
        assert take_stride_of(index_op(choice)) is None
    assert [take_stride_of(take_op(s)) for s in (2, 3, 12)] == [2, 3, 12]


def test_names_of_the_contract() -> None:
    assert index_op(Choice()) == "PolyphaseIndex_L2"
    assert select_op(Choice("l1_min", "float", 3)) == "PolyphaseSelect_L1Min_Float_S3"
    assert take_op(2) == "PolyphaseTake"


@pytest.mark.parametrize(
    "name", ["Relu", "PolyphaseIndex", "PolyphaseIndex_L7", "PolyphaseIndex_L2_Double", "ExactMean"]
)
def test_other_operators_are_none_of_ours(name: str) -> None:
    assert choice_of(name) is None
    assert take_stride_of(name) is None


@pytest.mark.parametrize("wrong", [{"criterion": "l3"}, {"selection": "double"}, {"stride": 1}])
def test_impossible_choices_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        Choice(**wrong)
