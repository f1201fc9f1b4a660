from __future__ import annotations

import pytest

from aps_deploy.export.op_names import (
    Choice,
    choice_of,
    exact_mean_op,
    exact_mean_size,
    index_op,
    is_narrow,
    select_op,
    take_op,
    take_stride_of,
)
from aps_deploy.polyphase import CRITERIA, SELECTION_MODES


def test_names_say_everything_a_body_depends_on() -> None:
    choices = [
        Choice(c, m, s, bits) for c in CRITERIA for m in SELECTION_MODES for s in (2, 3, 12) for bits in (None, 10, 15)
    ]
    names = [name(choice) for choice in choices for name in (index_op, select_op)]
    names += [take_op(s, narrow=narrow) for s in (2, 3, 12) for narrow in (False, True)]
    assert len(set(names)) == len(names)
    for choice in choices:
        assert choice_of(index_op(choice)) == choice_of(select_op(choice)) == choice
        assert take_stride_of(index_op(choice)) is None
    for narrow in (False, True):
        assert [take_stride_of(take_op(s, narrow=narrow)) for s in (2, 3, 12)] == [2, 3, 12]
        assert is_narrow(take_op(2, narrow=narrow)) is narrow
        for size in ((7, 12), None):
            assert exact_mean_size(exact_mean_op(size, narrow=narrow)) == size
            assert is_narrow(exact_mean_op(size, narrow=narrow)) is narrow


def test_names_of_the_contract() -> None:
    assert index_op(Choice()) == "PolyphaseIndex_L2"
    assert select_op(Choice("l1_min", "float", 3)) == "PolyphaseSelect_L1Min_Float_S3"
    assert take_op(2) == "PolyphaseTake"
    assert select_op(Choice(limb_bits=15)) == "PolyphaseSelect_L2_B15"
    assert take_op(3, narrow=True) == "PolyphaseTake_S3_I32"
    assert exact_mean_op((7, 7), narrow=True) == "ExactMean_7x7_I32"


@pytest.mark.parametrize(
    "name", ["Relu", "PolyphaseIndex", "PolyphaseIndex_L7", "PolyphaseIndex_L2_Double", "ExactMean"]
)
def test_other_operators_are_none_of_ours(name: str) -> None:
    assert choice_of(name) is None
    assert take_stride_of(name) is None


@pytest.mark.parametrize("wrong", [{"criterion": "l3"}, {"selection": "double"}, {"stride": 1}, {"limb_bits": 7}])
def test_impossible_choices_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        Choice(**wrong)
