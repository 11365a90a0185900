"""Kernels and crops at each join, against the positions of pixels."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from napari_fcnseg.networks.fcn_alignment import Place, alignment, behind, upsampler
from napari_fcnseg.networks.upsampling import BilinearTransposed, BilinearUpsampling

IMAGE = Place(1, Fraction(0))


def centred(stride: int) -> Place:
    return Place(stride, Fraction(stride - 1, 2))


@pytest.mark.parametrize(
    ("coarse", "fine", "expected"),
    [
        (Place(32, Fraction(25, 2)), IMAGE, (64, 19)),  # VGG16, 100 pixels of padding
        (Place(32, Fraction(25, 2)), Place(16, Fraction(-183, 2)), (4, -5)),
        (Place(32, Fraction(13)), IMAGE, (63, 18)),  # AlexNet, 100 pixels of padding
        (centred(32), IMAGE, (64, 16)),
        (centred(32), centred(16), (4, 1)),
    ],
)
def test_kernel_and_crop(coarse: Place, fine: Place, expected: tuple[int, int]) -> None:
    assert alignment(coarse, fine) == expected


@pytest.mark.parametrize(("stride", "begin", "to"), [(32, 12, 16), (32, 7, 1), (16, 3, 8), (16, 15, 2)])
def test_a_ramp_stays_where_it_was(stride: int, begin: int, to: int) -> None:
    """A map whose values are the positions of its pixels is upsampled to the positions of the finer ones."""
    coarse, fine = Place(stride, Fraction(begin, 2)), Place(to, Fraction(begin % (2 * to) + 4 * to, 2))
    up, shift = upsampler(1, coarse, fine, ndim=1, learned=None)
    positions = begin / 2 + stride * torch.arange(9.0)
    large = up(positions[None, None])[0, 0, shift:]
    inside = large[2 * stride // to : -2 * stride // to]
    expected = float(fine.origin) + to * torch.arange(len(large))
    torch.testing.assert_close(inside, expected[2 * stride // to : -2 * stride // to])


def test_learned_kernels_are_multiples_of_the_stride_and_begin_alike() -> None:
    coarse = Place(32, Fraction(13))
    fixed, shift = upsampler(2, coarse, IMAGE, ndim=1, learned=None)
    for how in ("learned", "channelwise"):
        learned, moved = upsampler(2, coarse, IMAGE, ndim=1, learned=how)
        assert isinstance(learned, nn.ConvTranspose1d)
        assert (learned.kernel_size, moved) == ((64,), shift)
        x = torch.randn(1, 2, 3)
        torch.testing.assert_close(learned(x)[..., :-1], fixed(x))


def test_centred_maps_are_resized_and_need_no_crop() -> None:
    up, shift = upsampler(2, centred(32), centred(16), ndim=2, learned=None)
    assert isinstance(up, BilinearUpsampling)
    assert (up.factor, shift) == (2, 0)
    assert isinstance(
        upsampler(2, Place(32, Fraction(13)), IMAGE, ndim=2, learned=None)[0], BilinearTransposed
    )


def test_layers_move_a_map() -> None:
    layers = nn.Sequential(nn.Conv1d(1, 1, 7), nn.ReLU(), nn.Conv1d(1, 1, 6, padding=3), nn.Dropout())
    assert behind(layers, Place(32, Fraction(1)), 1) == Place(32, Fraction(1 + 32 * 3 - 16))
