"""A network as the engine sees it: what it declares, refuses and computes."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.networks.tiled import FLOAT32_TOLERANCE, noise, run_tiled, run_whole, unsettled, worst
from torch import nn

from napari_fcnseg._shared.errors import TilingError
from napari_fcnseg._shared.protocols import Segmenter
from napari_fcnseg.networks import NetworkSegmenter, build_network


def small(name: str = "unet", ndim: int = 2, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    chosen = {"depth": 2, "base_channels": 2, **options}
    return unsettled(build_network(name, in_channels=1, classes=3, ndim=ndim, **chosen))


def segmenter_of(network: nn.Module, ndim: int = 2, out_channels: int = 3, **given: Any) -> NetworkSegmenter:
    return NetworkSegmenter(network, in_channels=1, out_channels=out_channels, ndim=ndim, **given)


class Untraceable(nn.Module):
    """A 5-wide mean whose forward depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.AvgPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mean(x) if float(x.sum()) == float(x.sum()) else x


def test_declares_what_the_layers_say() -> None:
    segmenter = segmenter_of(small("unet_valid"))
    assert isinstance(segmenter, Segmenter)
    assert (segmenter.in_channels, segmenter.out_channels, segmenter.ndim) == (1, 3, 2)
    assert segmenter.stride == (4, 4)
    assert segmenter.halo == segmenter.border == ((20, 20), (20, 20))
    assert (segmenter.exact_tiling, segmenter.inexact_reason) == (True, "")
    assert segmenter.progressive
    assert segmenter.padding_mode == "reflect"


@pytest.mark.parametrize("halo", [23, (24, 23), ((24, 24), (23, 24)), 0])
def test_a_halo_smaller_than_the_field_is_refused(halo: Any) -> None:
    with pytest.raises(TilingError, match=r"a halo of .* is smaller than the \(24, 24\) that the layers"):
        segmenter_of(small(), halo=halo)


@pytest.mark.parametrize(
    ("halo", "expected"),
    [
        (24, ((24, 24), (24, 24))),
        (25, ((28, 28), (28, 28))),
        ((24, 30), ((24, 24), (32, 32))),
        (((24, 29), (26, 24)), ((24, 32), (28, 24))),
    ],
)
def test_a_larger_halo_is_taken_and_aligned(halo: Any, expected: Any) -> None:
    assert segmenter_of(small(), halo=halo).halo == expected


def test_a_larger_halo_of_a_network_that_loses_a_border() -> None:
    network = small("unet_valid", depth=3)
    segmenter = segmenter_of(network, halo=50)
    assert segmenter.border == ((44, 48), (44, 48))
    assert segmenter.halo == ((52, 56), (52, 56))
    image = noise(1, (30, 21))
    assert worst(run_tiled(segmenter, image, (16, 8)), run_whole(segmenter, image)) <= FLOAT32_TOLERANCE


@pytest.mark.parametrize("stride", [2, 8, (4, 8)])
def test_another_stride_than_that_of_the_layers_is_refused(stride: Any) -> None:
    with pytest.raises(TilingError, match=r"stride=.* was given, but the layers make it \(4, 4\)"):
        segmenter_of(small(), stride=stride)


def test_the_right_stride_may_be_given() -> None:
    assert segmenter_of(small(), stride=4).halo == segmenter_of(small(), stride=(4, 4), halo=24).halo


@pytest.mark.parametrize(
    "given", [{"halo": (24,)}, {"halo": ((24, 24, 24),) * 2}, {"stride": (4,), "halo": 24}]
)
def test_values_for_another_number_of_axes_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(TilingError, match="does not fit 2 axes"):
        segmenter_of(small(), **given)


@pytest.mark.parametrize("given", [{"halo": 2}, {"stride": 1}])
def test_an_untraceable_network_demands_halo_and_stride(given: dict[str, Any]) -> None:
    with pytest.raises(TilingError, match=r"cannot be derived \(its layers.*give both halo= and stride="):
        segmenter_of(Untraceable(), out_channels=1, **given)


def test_an_untraceable_network_is_not_exact_by_itself() -> None:
    segmenter = segmenter_of(Untraceable(), out_channels=1)
    assert not segmenter.exact_tiling
    assert "cannot be traced" in segmenter.inexact_reason


@pytest.mark.parametrize(("halo", "exact"), [(2, True), (5, True), (1, False)])
def test_an_untraceable_network_is_taken_at_its_word(halo: int, exact: bool) -> None:
    segmenter = segmenter_of(Untraceable(), out_channels=1, halo=halo, stride=1)
    assert segmenter.exact_tiling
    assert not segmenter.progressive
    image = noise(1, (13, 9))
    difference = worst(run_tiled(segmenter, image, (4, 5)), run_whole(segmenter, image))
    assert (difference <= FLOAT32_TOLERANCE) == exact


def test_the_halo_of_an_untraceable_network_is_aligned() -> None:
    segmenter = segmenter_of(Untraceable(), out_channels=1, halo=((2, 4), (0, 3)), stride=(4, 2))
    assert segmenter.stride == (4, 2)
    assert segmenter.halo == ((4, 4), (0, 4))


@pytest.mark.parametrize("norm", ["group", "instance"])
@pytest.mark.parametrize("given", [{"halo": 24, "stride": 4}, {"halo": 96}, {"stride": 4}])
def test_no_halo_makes_statistics_of_the_whole_image_exact(norm: str, given: dict[str, Any]) -> None:
    with pytest.raises(
        TilingError, match=r"no halo makes this network exact: .*Norm.* looks at the whole image"
    ):
        segmenter_of(small(norm=norm), **given)


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_statistics_of_the_whole_image_still_run_on_odd_sizes(norm: str) -> None:
    segmenter = segmenter_of(small(norm=norm))
    assert not segmenter.exact_tiling
    assert not segmenter.progressive
    image = noise(1, (81, 18))
    one = run_tiled(segmenter, image, (84, 20))
    assert worst(one, run_whole(segmenter, image)) == 0
    # The reason that is stated is true: tiles differ.
    assert worst(run_tiled(segmenter, image, (8, 8)), run_whole(segmenter, image)) > 0.01


@pytest.mark.parametrize("cropping", [True, False])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_one_stride_less_halo_shows(ndim: int, cropping: bool) -> None:
    """So the comparisons of tiles with the whole can fail."""
    segmenter = segmenter_of(small(ndim=ndim), ndim)
    image, core = noise(1, (40, 40, 12)[:ndim]), (8,) * ndim
    whole = run_whole(segmenter, image)
    assert worst(run_tiled(segmenter, image, core, cropping=cropping), whole) <= FLOAT32_TOLERANCE
    segmenter.field = replace(segmenter.field, halo=((20, 20),) * ndim)
    assert worst(run_tiled(segmenter, image, core, cropping=cropping), whole) > 10 * FLOAT32_TOLERANCE


def test_the_network_is_not_changed() -> None:
    network = small().train()
    state = copy.deepcopy(network.state_dict())
    segmenter = segmenter_of(network, dtype=torch.bfloat16)
    segmenter.predict(torch.randn(1, 1, 16, 16))
    assert network.training
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep", [None, ((2, 9), (0, 16))])
def test_scores_are_float32_and_the_batch_stays(dtype: torch.dtype, keep: Any) -> None:
    segmenter = segmenter_of(small(), dtype=dtype)
    batch = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    before = batch.clone()
    scores = segmenter.predict(batch, keep)
    assert scores.dtype == torch.float32
    assert scores.shape == ((2, 3, 7, 16) if keep else (2, 3, 16, 16))
    assert torch.equal(batch, before)
    assert not scores.requires_grad


def test_each_image_of_a_batch_is_scored_by_itself() -> None:
    segmenter = segmenter_of(small().train())
    batch = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    together = segmenter.predict(batch)
    alone = torch.cat([segmenter.predict(image[None]) for image in batch])
    assert worst(together, alone) <= FLOAT32_TOLERANCE


def test_on_another_precision() -> None:
    segmenter = segmenter_of(small(), halo=32)
    batch = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert segmenter.on("cpu", torch.float32) is segmenter
    rough = segmenter.on("cpu", torch.bfloat16)
    assert (rough.dtype, segmenter.dtype) == (torch.bfloat16, torch.float32)
    assert rough.halo == segmenter.halo
    assert 0 < worst(rough.predict(batch), segmenter.predict(batch)) < 0.05
    again = rough.on(torch.device("cpu"), torch.float32)
    assert torch.equal(again.predict(batch), segmenter.predict(batch))
    keep = ((3, 7), (2, 4))
    assert worst(rough.predict(batch, keep), segmenter.predict(batch, keep)) < 0.05


def test_the_field_of_a_segmenter_is_plain_data() -> None:
    segmenter = segmenter_of(small("unet_valid", 3), 3)
    assert json.loads(json.dumps([segmenter.stride, segmenter.halo, segmenter.border])) == [
        [4] * 3, [[20, 20]] * 3, [[20, 20]] * 3,
    ]  # fmt: skip
