"""Layers that read two maps, or a part of one: crops to another map's size, switches, channels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.networks.impulse import check_field
from tests.networks.tiled import FLOAT32_TOLERANCE, noise, run_tiled, run_whole, worst
from torch import nn

from napari_fcnseg.networks import NetworkSegmenter, derive_field
from napari_fcnseg.networks.anysize import AnySize
from napari_fcnseg.networks.layers import ChannelSlice, CropLike


class WidelyPadded(AnySize):
    """Zeros all around, a stride, a kernel twice as wide and a crop, as in the first FCN."""

    def __init__(self) -> None:
        super().__init__(step=4)
        self.encode = nn.Sequential(nn.Conv2d(1, 3, 3, padding=9), nn.MaxPool2d(4, ceil_mode=True))
        self.decode = nn.ConvTranspose2d(3, 2, 8, 4)
        self.crop = CropLike(10)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        return self.crop(self.decode(self.encode(x)), x)  # type: ignore[no-any-return]


class Switched(AnySize):
    """Values go back to where they were the largest."""

    def __init__(self) -> None:
        super().__init__(step=2)
        self.encode = nn.Conv2d(1, 3, 3, padding=1)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.middle, self.decode = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        x, switches = self.pool(self.encode(x))
        return self.decode(self.unpool(self.middle(x), switches))  # type: ignore[no-any-return]


class TwoStreams(AnySize):
    """One convolution for each half of the channels."""

    def __init__(self) -> None:
        super().__init__(step=1)
        self.halves = nn.ModuleList(ChannelSlice(i, i + 1) for i in range(2))
        self.nets = nn.ModuleList(nn.Conv2d(1, 2, 3 + 2 * i, padding=1 + i) for i in range(2))

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        first, second = (net(half(x)) for net, half in zip(self.nets, self.halves, strict=True))
        return first + second  # type: ignore[no-any-return]


NETWORKS: list[tuple[Callable[[], nn.Module], int, bool]] = [
    (WidelyPadded, 1, True), (Switched, 1, False), (TwoStreams, 2, True),
]  # fmt: skip


@pytest.mark.parametrize(("build", "channels", "progressive"), NETWORKS)
def test_tiles_equal_the_whole(build: Callable[[], nn.Module], channels: int, progressive: bool) -> None:
    torch.manual_seed(0)
    network = build().eval()
    check_field(network, derive_field(network, 2), channels)
    segmenter = NetworkSegmenter(network, in_channels=channels, out_channels=2, ndim=2)
    assert (segmenter.exact_tiling, segmenter.progressive) == (True, progressive)
    for shape, core in (((61, 23), (12, 8)), ((5, 3), (4, 4)), ((1, 1), (4, 4))):
        image = noise(channels, shape)
        whole = run_whole(segmenter, image)
        assert worst(run_tiled(segmenter, image, core), whole) <= FLOAT32_TOLERANCE
        with torch.inference_mode():
            assert worst(network(torch.from_numpy(image)[None])[0], whole) <= FLOAT32_TOLERANCE


def test_a_slice_of_a_map_is_no_switch() -> None:
    class Sliced(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :1]

    assert "getitem" in derive_field(Sliced(), 2).reason


def test_an_image_smaller_than_the_network_takes_is_mirrored() -> None:
    class Wide(AnySize):
        def __init__(self) -> None:
            super().__init__(step=1, smallest=15)
            self.layers = nn.Sequential(nn.Conv2d(1, 2, 15), nn.ConvTranspose2d(2, 2, 15))

        def scores(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    network = Wide().eval()
    segmenter = NetworkSegmenter(network, in_channels=1, out_channels=2, ndim=2)
    image = noise(1, (60, 7))
    with torch.inference_mode():
        expected = network(torch.from_numpy(image)[None])[0]
    assert worst(run_tiled(segmenter, image, (5, 7), cropping=False), expected) <= FLOAT32_TOLERANCE
    assert worst(run_tiled(segmenter, image, (5, 4), cropping=True), expected) <= FLOAT32_TOLERANCE
