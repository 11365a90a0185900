"""Sizes of outputs, against the seeds' figures and against torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.sizes import conv_output_size, transposed_output_size


def test_the_figures_of_the_seeds() -> None:
    assert conv_output_size(4, 3, padding=1) == 4
    assert conv_output_size(4, 3, stride=2, padding=1) == 2
    assert transposed_output_size(2, 3, stride=2, padding=1) == 3
    assert transposed_output_size(2, 3, stride=2, padding=1, output_padding=1) == 4


@pytest.mark.parametrize(("stride", "small", "large"), [(1, 2, 4), (2, 2, 5)])
def test_unpadded_and_its_transpose(stride: int, small: int, large: int) -> None:
    """The guide's figures: 4 to 2 and 5 to 2 by a kernel of 3, and back."""
    assert conv_output_size(large, 3, stride=stride) == small
    assert transposed_output_size(small, 3, stride=stride) == large


ints = st.integers(1, 5)


@given(st.integers(1, 30), ints, ints, st.integers(0, 4), ints)
def test_convolutions_as_torch(length: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    x, weight = torch.zeros(1, 1, length), torch.zeros(1, 1, kernel)
    if length + 2 * padding < dilation * (kernel - 1) + 1:
        with pytest.raises(NetworkError, match=f"{length} pixels are too few"):
            conv_output_size(length, kernel, stride=stride, padding=padding, dilation=dilation)
        return
    got = F.conv1d(x, weight, stride=stride, padding=padding, dilation=dilation).shape[-1]
    assert conv_output_size(length, kernel, stride=stride, padding=padding, dilation=dilation) == got


@given(st.integers(1, 30), ints, ints, st.data())
def test_poolings_that_count_a_last_window(
    length: int, kernel: int, stride: int, data: st.DataObject
) -> None:
    padding = data.draw(st.integers(0, kernel // 2))
    assume(length + 2 * padding >= kernel)
    got = F.max_pool1d(torch.zeros(1, 1, length), kernel, stride, padding, ceil_mode=True).shape[-1]
    assert conv_output_size(length, kernel, stride=stride, padding=padding, ceil=True) == got


@given(st.integers(1, 12), ints, ints, st.integers(0, 4), ints, st.integers(0, 4))
def test_transposed_convolutions_as_torch(
    length: int, kernel: int, stride: int, padding: int, dilation: int, extra: int
) -> None:
    assume(extra < max(stride, dilation))
    x, weight = torch.zeros(1, 1, length), torch.zeros(1, 1, kernel)
    expected = (length - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
    words = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": extra}
    if expected < 1:
        with pytest.raises(NetworkError, match="too few"):
            transposed_output_size(length, kernel, **words)
        return
    got = F.conv_transpose1d(x, weight, **words).shape[-1]  # type: ignore[arg-type]
    assert transposed_output_size(length, kernel, **words) == got
