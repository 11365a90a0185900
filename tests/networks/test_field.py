"""Stride, halo and border: known figures, reasons, and what impulses measure."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.networks.impulse import check_field
from torch import nn

from napari_fcnseg.networks import Field, build_network, derive_field
from napari_fcnseg.networks.field import Walk
from napari_fcnseg.networks.geometry import NoRuleError
from napari_fcnseg.networks.layers import Crop


def small(name: str, ndim: int = 2, **options: Any) -> nn.Module:
    return build_network(name, in_channels=1, classes=2, ndim=ndim, base_channels=1, **options)


@pytest.mark.parametrize("up", ["transpose", "nearest"])
@pytest.mark.parametrize(("depth", "halo"), [(1, 8), (2, 24), (3, 48), (4, 96), (5, 192)])
def test_halo_of_the_same_padded_unet(depth: int, halo: int, up: str) -> None:
    """6 * 2^depth; one pooling needs only 8."""
    expected = Field((2**depth,) * 2, ((halo, halo),) * 2, ((0, 0),) * 2)
    assert derive_field(small("unet", depth=depth, up=up), 2) == expected


@pytest.mark.parametrize(("depth", "halo"), [(1, 10), (2, 28), (3, 56), (4, 112)])
def test_halo_with_linear_upsampling(depth: int, halo: int) -> None:
    assert derive_field(small("unet", depth=depth, up="linear"), 2).halo == ((halo, halo),) * 2


@pytest.mark.parametrize(
    ("depth", "border"), [(1, (8, 8)), (2, (20, 20)), (3, (44, 48)), (4, (92, 96)), (5, (188, 192))]
)
def test_border_of_the_unpadded_unet(depth: int, border: tuple[int, int]) -> None:
    """Half of 16, 40, 88, 184, 376 is lost; after comes what makes the poolings even."""
    expected = Field((2**depth,) * 3, (border,) * 3, (border,) * 3)
    assert derive_field(small("unet_valid", 3, depth=depth), 3) == expected


UNETS = [
    (ndim, depth, up, norm)
    for ndim, depths in ((1, (1, 2, 3, 4)), (2, (1, 2, 3, 4)), (3, (1, 2)))
    for depth in depths
    for up in ("transpose", "nearest", "linear")
    for norm in ("batch", "none")
]


@pytest.mark.parametrize(("ndim", "depth", "up", "norm"), UNETS)
def test_impulses_confirm_the_halo_of_unet(ndim: int, depth: int, up: str, norm: str) -> None:
    network = small("unet", ndim, depth=depth, up=up, norm=norm)
    check_field(network, derive_field(network, ndim), 1)


@pytest.mark.parametrize(
    ("ndim", "depth"), [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (2, 3), (2, 4), (3, 1)]
)
def test_impulses_confirm_the_halo_of_unet_valid(ndim: int, depth: int) -> None:
    network = small("unet_valid", ndim, depth=depth)
    check_field(network, derive_field(network, ndim), 1)


def test_the_impulse_test_notices_a_halo_that_is_too_small_or_too_large() -> None:
    network = small("unet", 1, depth=2)
    for halo in (16, 32, 64):
        with pytest.raises(AssertionError):
            check_field(network, Field((4,), ((halo, halo),), ((0, 0),)), 1)
    with pytest.raises(AssertionError):
        check_field(network, Field((4,), ((24, 32),), ((0, 0),)), 1)


@pytest.mark.parametrize(("norm", "name"), [("group", "GroupNorm"), ("instance", "InstanceNorm2d")])
def test_statistics_of_the_whole_image_are_not_exact(norm: str, name: str) -> None:
    """They move no pixel, so sizes and stride are those of the network without them."""
    field, plain = (derive_field(small("unet", depth=2, norm=n), 2) for n in (norm, "none"))
    assert not field.exact
    assert field.reason == f"{name} looks at the whole image"
    assert (field.stride, field.halo, field.border) == (plain.stride, plain.halo, plain.border)


def sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), *layers)


class Doubled(nn.Module):
    """A map joined with itself by any function."""

    def __init__(self, join: Any) -> None:
        super().__init__()
        self.join = join
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.join(y, y)  # type: ignore[no-any-return]


class DataDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


REASONS: list[tuple[nn.Module, str]] = [
    (sequence(nn.BatchNorm2d(2, track_running_stats=False)), "BatchNorm2d without running statistics"),
    (sequence(nn.AdaptiveAvgPool2d(1), nn.Upsample(size=8)), "AdaptiveAvgPool2d looks at the whole image"),
    (sequence(nn.MaxPool2d(2), nn.UpsamplingBilinear2d(scale_factor=2)), "align_corners=True"),
    (sequence(nn.Softmax(1)), "Softmax has no rule"),
    (sequence(nn.MaxPool2d(2)), "one pixel for 2 of the image; upsample it"),
    (sequence(nn.Upsample(scale_factor=2)), "one pixel for 1/2 of the image"),
    (sequence(nn.Conv2d(2, 1, 1, padding=1)), "displaced by -1 pixels"),
    (sequence(nn.Conv2d(2, 1, 2)), "displaced by 1/2 pixels"),
    (DataDependent(), r"its layers cannot be traced"),
    (Doubled(lambda a, b: torch.cat([a, b], 2)), "joins maps along axis 2"),
    (Doubled(lambda a, b: torch.cat([a, b])), "joins maps along axis 0"),
    (Doubled(lambda a, b: torch.cat([a, b], dim=-1)), "joins maps along axis -1"),
    (Doubled(torch.maximum), "maximum.* has no rule"),
    (Doubled(lambda a, b: a.flip(2) + b), "flip has no rule"),
    (Doubled(lambda a, b: F.relu(a, inplace=True) + b), "overwrites the image or a map that other"),
    (Doubled(lambda a, b: F.relu(a, True) + b), "overwrites the image or a map that other"),
    (Doubled(lambda a, b: F.relu(F.dropout(a, training=False), inplace=True) + b), "relu overwrites"),
    (nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)), "overwrites the image"),
    (Doubled(lambda a, b: a[..., 1:] + b[..., :-1]), "getitem.* has no rule"),
]  # fmt: skip


@pytest.mark.parametrize(("network", "reason"), REASONS, ids=[reason for _, reason in REASONS])
def test_reasons(network: nn.Module, reason: str) -> None:
    field = derive_field(network, 2)
    assert not field.exact
    with pytest.raises(NoRuleError, match=reason):
        raise NoRuleError(field.reason)


class Joined(nn.Module):
    """The sum of two ways through the network."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.second(x)  # type: ignore[no-any-return]


def test_joined_maps_that_lie_on_one_another() -> None:
    field = derive_field(Joined(Crop(1), nn.Conv1d(1, 1, 5, padding=1)), 1)
    assert field == Field((1,), ((2,) * 2,), ((1, 1),))


def halved(size: int, padding: int) -> nn.Module:
    return nn.Sequential(nn.Conv1d(1, 1, size, 2, padding), nn.Upsample(scale_factor=2))


def test_maps_half_a_pixel_apart_are_exact_where_no_border_is_lost() -> None:
    """A 3-wide strided convolution is centred on pixel 0, a 2-wide one between 0 and 1."""
    network = Joined(halved(3, 1), halved(2, 0))
    assert derive_field(network, 1) == Field((2,), ((2, 0),), ((0, 0),))
    check_field(network, derive_field(network, 1), 1)
    valid = derive_field(nn.Sequential(nn.Conv1d(1, 1, 3), network), 1)
    assert valid.reason == "it loses a border, and joins maps that do not lie on one another"


def test_maps_of_different_resolution_are_not_joined() -> None:
    network = Joined(nn.Identity(), nn.MaxPool1d(2))
    assert "differ in resolution" in derive_field(network, 1).reason


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_an_output_half_a_pixel_off_is_exact(mode: str) -> None:
    """A strided stem as of ResNet, enlarged at the end: stride 4, output 3/2 pixels before the image."""
    network = nn.Sequential(
        nn.Conv1d(1, 2, 7, 2, 3), nn.ReLU(), nn.MaxPool1d(3, 2, 1), nn.Upsample(scale_factor=4, mode=mode)
    )
    field = derive_field(network, 1)
    assert (field.stride, field.border, field.exact) == ((4,), ((0, 0),), True)
    check_field(network, field, 1)


def test_joins_along_channels_are_exact() -> None:
    for join in (lambda a, b: torch.cat([a, b], 1), lambda a, b: torch.cat([a, b], dim=-3), torch.add):
        assert derive_field(Doubled(join), 2) == Field((1, 1), ((1, 1), (1, 1)), ((0, 0), (0, 0)))


def test_writing_in_place_where_nobody_else_reads_is_fine() -> None:
    network = sequence(nn.BatchNorm2d(2), nn.Dropout(), nn.ReLU(inplace=True), nn.ReLU6(inplace=True))
    assert derive_field(network, 2).halo == ((1, 1), (1, 1))


def test_each_axis_has_its_own_field() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 1, (1, 5), padding=(0, 2)), nn.MaxPool2d((1, 2)), nn.Upsample(scale_factor=(1, 2))
    )
    assert derive_field(network, 2) == Field((1, 2), ((0, 0), (2, 2)), ((0, 0), (0, 0)))


def test_a_cut_inside_the_network_does_not_shorten_the_halo() -> None:
    """A tile pads where it was cut; the whole image has pixels there."""
    network = nn.Sequential(Crop(4), nn.Conv1d(1, 1, 3, padding=1))
    assert derive_field(network, 1) == Field((1,), ((5, 5),), ((4, 4),))


def test_a_walk_knows_sizes_and_positions_of_all_maps() -> None:
    walk = Walk(nn.Sequential(nn.Conv1d(1, 1, 3), nn.MaxPool1d(2), nn.ConvTranspose1d(1, 1, 2, 2)), 1)
    sizes = walk.sizes(0, 10)
    assert sizes is not None
    assert list(sizes.values()) == [10, 8, 4, 8, 8]
    assert walk.sizes(0, 2) is None
    places = [place for node, place in walk.positions(0).items() if node.op == "call_module"]
    one = Fraction(1)
    assert places == [(one, one), (2 * one, Fraction(3, 2)), (one, one)]
