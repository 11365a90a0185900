"""Images of any size: mirrored once, as tiled runs do it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_fcnseg.networks.anysize import AnySize, mirrored
from napari_fcnseg.tiling.padding import mirror_indices

short, padding = st.integers(1, 6), st.integers(0, 20)


@given(length=short, before=padding, after=padding, axis=st.integers(2, 3))
def test_mirrored_is_what_tiles_read_beyond_the_border(
    length: int, before: int, after: int, axis: int
) -> None:
    x = torch.arange(2 * 3 * length * length).reshape(2, 3, length, length)
    places = torch.from_numpy(mirror_indices(-before, length + after, length))
    assert torch.equal(mirrored(x, axis, before, after), x.index_select(axis, places))


def test_without_padding_nothing_is_copied() -> None:
    x = torch.zeros(1, 1, 4)
    assert mirrored(x, 2, 0, 0) is x


class Window(AnySize):
    """Passes on what is left when it has cut its margin, and remembers what it was given."""

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        self.given = x
        before, after = self.margin
        for axis in range(2, x.ndim):
            x = x.narrow(axis, before, x.shape[axis] - before - after)
        return x


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)), step=st.integers(1, 16),
    offset=st.integers(0, 1), smallest=st.integers(1, 30),
    margin=st.tuples(st.integers(0, 12), st.integers(0, 12)),
)  # fmt: skip
def test_the_network_proper_is_given_the_next_fitting_size(
    shape: tuple[int, int], step: int, offset: int, smallest: int, margin: tuple[int, int]
) -> None:
    network = Window(step=step, margin=margin, smallest=smallest, offset=offset)
    image = np.random.default_rng(0).normal(size=shape)
    x = torch.from_numpy(image)[None, None]
    assert torch.equal(network(x), x)
    for length, given_length in zip(shape, network.given.shape[2:], strict=True):
        fitting = given_length - sum(margin)
        assert fitting >= max(length, smallest)
        assert (fitting - offset) % step == 0
        assert fitting - step < max(length, smallest)


def test_the_network_proper_is_up_to_the_subclass() -> None:
    with pytest.raises(NotImplementedError):
        AnySize(step=1)(torch.zeros(1, 1, 2))
