"""The maps that are drawn for a GPU: the same in every run, and of every kind."""

from __future__ import annotations

from tests.plugins.triton.maps import DTYPES, LAYOUTS, drawn_case, drawn_settings, is_channels_last, setting_name


def test_twenty_drawn_maps_are_of_every_kind() -> None:
    found = drawn_settings(20, most_channels=40, most_steps=5)
    assert found == drawn_settings(20, most_channels=40, most_steps=5)
    assert len({setting_name(each) for each in found}) == 20 and len({each["shape"] for each in found}) > 15
    kinds = {(each["stride"], each["dtype"]) for each in found}
    assert kinds == {(stride, dtype) for stride in (2, 3, 4) for dtype in DTYPES}
    assert {(each["stride"], each["layout"]) for each in found} >= {(s, name) for s in (2, 3, 4) for name in LAYOUTS}
    assert {each["filter_size"] for each in found} == {1, 2, 3, 4, 5}


def test_a_drawn_map_lies_in_memory_as_its_layout_says() -> None:
    for setting in drawn_settings(20, most_channels=40, most_steps=5):
        x, layout = drawn_case(**setting).x, setting["layout"]
        assert tuple(x.shape) == setting["shape"] and x.dtype == setting["dtype"]
        assert x.is_contiguous() == (layout == "contiguous") or x.shape[1] == 1
        assert is_channels_last(x) == (layout == "channels last") or x.shape[1] == 1
