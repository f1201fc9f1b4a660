"""The stride-1 circular form of a window, held against the strided window on a map continued by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from aps_deploy.conversion.modules import CircularConv2d, CircularPool2d
from aps_deploy.conversion.windows import circular_window
from aps_deploy.errors import InputError

SIDE = 16


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 7),
    stride=st.sampled_from([1, 2, 4]),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 2),
    ceil_mode=st.booleans(),
)
def test_every_accepted_pool_is_the_strided_one(
    kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> None:
    assume(padding <= kernel // 2)  # PyTorch's own rule
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    x = torch.randn(1, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(kernel))
    strided_side = None if SIDE + 2 * padding <= dilation * (kernel - 1) else pool(x).shape[2]
    try:
        window = circular_window(
            "pool", kernel=kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode
        )
    except InputError:
        assert strided_side != SIDE // stride
        return
    assert strided_side == SIDE // stride
    assert 2**window.num_selections == stride
    reach = dilation * (kernel - 1)
    wide = F.pad(x, (padding, reach, padding, reach), mode="circular")
    expected = F.max_pool2d(wide, kernel, stride, dilation=dilation)[:, :, : SIDE // stride, : SIDE // stride]
    assert torch.equal(CircularPool2d(pool, window.reach)(x)[:, :, ::stride, ::stride], expected)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("padding", ["same", 3])
def test_convolutions_with_dilation_and_groups(padding: str | int) -> None:
    kernel, dilation = (4, 1) if padding == "same" else (3, 3)
    conv = nn.Conv2d(4, 6, kernel, padding=padding, dilation=dilation, groups=2)
    window = circular_window("conv", kernel=conv.kernel_size, stride=1, padding=conv.padding, dilation=conv.dilation)
    left, right, top, bottom = window.reach
    assert (left, right) == (top, bottom) == ((1, 2) if padding == "same" else (3, 3))
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        circular = CircularConv2d(conv, window.reach)(x)
        inner = conv(torch.cat([x, x, x], dim=2).repeat(1, 1, 1, 3))[:, :, 8:16, 8:16]
    torch.testing.assert_close(circular, inner)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kernel": 3, "stride": 3, "padding": 1}, "m has stride 3x3"),
        ({"kernel": 3, "stride": (1, 2), "padding": 1}, "m has stride 1x2"),
        ({"kernel": 3, "stride": 2, "padding": 0}, r"m \(kernel 3, stride 2, padding 0, dilation 1\) does not make"),
        ({"kernel": 3, "stride": 1, "padding": 2}, "does not make a map of exactly 1/stride"),
    ],
)
def test_refused_windows(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        circular_window("m", **options)  # type: ignore[arg-type]
