from __future__ import annotations

import dataclasses

from aps_deploy.runtimes import ModelMetadata, SelectionTensors
from aps_deploy.verification.declaration import declared_differently, promises, unaudited_layers

ARGUMENTS = {
    "num_classes": 10, "criterion": "l2", "selection": "exact", "pool_only": False, "padding": "circular",
    "odd_maps": "error",
}  # fmt: skip
PLAIN = ModelMetadata(architecture="resnet20", arguments=ARGUMENTS)
SELECTING = ModelMetadata(
    architecture="resnet20_aps3",
    arguments=ARGUMENTS,
    selection="exact",
    criterion="l2",
    selection_layers=("a", "b"),
    selections=(SelectionTensors("a", "i", "s"), SelectionTensors("b", "j", "t")),
)
OUTPUTS = {"logits", "polyphase_indices"}


def test_the_options_of_selection_count_only_where_something_selects() -> None:
    assert promises(PLAIN) == {"padding": "circular", "pool_only": False}
    assert set(promises(SELECTING)) == {"padding", "pool_only", "selection", "criterion", "odd_maps"}
    arguments = {**ARGUMENTS, "selection": "float"}
    assert declared_differently(dataclasses.replace(PLAIN, arguments=arguments), PLAIN) == ()
    assert len(declared_differently(dataclasses.replace(SELECTING, arguments=arguments), SELECTING)) == 1


def test_an_option_stated_twice_must_agree_twice() -> None:
    assert declared_differently(SELECTING, SELECTING) == ()
    contradicting = dataclasses.replace(SELECTING, selection="float")
    assert declared_differently(contradicting, SELECTING) == ("selection is float, the reference has exact",)


def test_all_differences_are_listed() -> None:
    other = dataclasses.replace(SELECTING, criterion="l1", selection_layers=(), arguments={})
    text = "; ".join(declared_differently(other, SELECTING))
    for part in ("padding is not stated", "criterion is not stated", "selecting layers are none, the reference has a"):
        assert part in text


def test_evidence_of_every_layer() -> None:
    assert unaudited_layers(SELECTING, SELECTING, OUTPUTS, is_graph=True) == (0, "")
    assert unaudited_layers(SELECTING, SELECTING, {"logits"}, is_graph=True)[0] == 2
    assert unaudited_layers(ModelMetadata(), SELECTING, OUTPUTS, is_graph=True)[0] == 2
    partly = dataclasses.replace(SELECTING, selections=SELECTING.selections[:1])
    assert unaudited_layers(partly, SELECTING, OUTPUTS, is_graph=True) == (1, "its metadata names no values for b")
    assert unaudited_layers(partly, SELECTING, OUTPUTS, is_graph=False) == (0, "")
