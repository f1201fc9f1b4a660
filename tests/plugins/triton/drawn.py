"""Cases that hypothesis draws; apart from the maps, which are used where hypothesis is not installed."""

from __future__ import annotations

from hypothesis import strategies as st

from aps_deploy.polyphase import CRITERIA
from tests.plugins.triton.maps import DTYPES, Case, made


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Return a case of any stride, criterion, filter, type and layout; some of several blocks and rounds of lanes."""
    stride = draw(st.integers(2, 4))
    filter_size = draw(st.sampled_from((1, 1, 2, 3, 5)))
    least = -(-filter_size // stride)
    shape = (
        draw(st.integers(1, 2)),
        draw(st.sampled_from((1, 2, 3, 5, 8, 33))),
        stride * draw(st.integers(least, 7)),
        stride * draw(st.integers(least, 7)),
    )
    return made(
        shape,
        stride=stride,
        criterion=draw(st.sampled_from(CRITERIA)),
        filter_size=filter_size,
        dtype=draw(st.sampled_from(DTYPES)),
        channels_last=draw(st.booleans()),
        seed=draw(st.integers(0, 2**31)),
    )
