"""What the neighbours at an offset believe, band by band."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_fcnseg.refine.crf_mean_field import settle, shifted


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.lists(st.integers(-7, 7), min_size=3, max_size=3),
    st.data(),
)
def test_shifted_is_the_neighbour_or_nothing(shape: list[int], far: list[int], data: st.DataObject) -> None:
    offset = far[: len(shape)]
    first = data.draw(st.integers(0, shape[0] - 1))
    last = data.draw(st.integers(first + 1, shape[0]))
    row = math.prod(shape[1:])
    beliefs = torch.rand(row * shape[0], 2)
    found = shifted(beliefs, shape, offset, first * row, last * row).view(last - first, *shape[1:], 2)
    grid = beliefs.view(*shape, 2)
    for place in torch.cartesian_prod(*[torch.arange(n) for n in shape]).view(-1, len(shape)).tolist():
        if not first <= place[0] < last:
            continue
        there = tuple(p + o for p, o in zip(place, offset, strict=True))
        inside = all(0 <= t < n for t, n in zip(there, shape, strict=True))
        expected = grid[there] if inside else torch.zeros(2)
        torch.testing.assert_close(found[(place[0] - first, *place[1:])], expected)


def test_directions_work_across_bands() -> None:
    shape = (130, 600)
    log = torch.log_softmax(torch.randn(130 * 600, 3, generator=torch.Generator().manual_seed(0)), 1)
    matrix = torch.rand(3, 3)
    found = settle(log, shape, [], directions={(40, -7): matrix}, iterations=1)
    beliefs = torch.softmax(log, 1).view(*shape, 3)
    energy = torch.zeros(*shape, 3)
    energy[:90, 7:] += beliefs[40:, :-7] @ matrix.T
    energy[40:, :-7] += beliefs[:90, 7:] @ matrix
    torch.testing.assert_close(found, torch.softmax(log - energy.view(-1, 3), 1))
