"""Ways to make a map larger, against their definitions and against torch's resizing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from napari_fcnseg._shared.errors import NetworkError
from napari_fcnseg.networks.field import derive_field
from napari_fcnseg.networks.layers import CONV_TRANSPOSE, LINEAR_MODE
from napari_fcnseg.networks.progressive import ProgressiveNetwork
from napari_fcnseg.networks.upsampling import (
    BilinearTransposed,
    BilinearUpsampling,
    bed_of_nails,
    bilinear_kernel,
    check_checkerboard,
    fill_bilinear,
    learned_upsampling,
    max_unpool,
    nearest,
    overlap_counts,
    pool_with_switches,
)

SHAPES = {1: (5,), 2: (4, 6), 3: (3, 2, 4)}
every_ndim = pytest.mark.parametrize("ndim", SHAPES)


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def resized(x: torch.Tensor, factor: int) -> torch.Tensor:
    return F.interpolate(x, scale_factor=factor, mode=LINEAR_MODE[x.ndim - 2], align_corners=False)


# ---------------------------------------------------------------- repeat, nails, switches


@every_ndim
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_nearest_repeats_each_value(ndim: int, factor: int) -> None:
    x = maps(*SHAPES[ndim])
    assert torch.equal(nearest(x, factor), F.interpolate(x, scale_factor=factor, mode="nearest"))


def test_a_nail_stands_at_the_first_corner_of_each_block() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]
    assert bed_of_nails(x, 2)[0, 0].tolist() == expected


@every_ndim
def test_nails_are_a_transposed_convolution_with_one_weight(ndim: int) -> None:
    x = maps(*SHAPES[ndim])
    layer = CONV_TRANSPOSE[ndim](3, 3, 3, stride=3, groups=3, bias=False).double()
    nn.init.zeros_(layer.weight)
    layer.weight.data[:, 0].flatten(1)[:, 0] = 1
    assert torch.equal(bed_of_nails(x, 3), layer(x))


def test_a_value_returns_to_where_its_maximum_lay() -> None:
    x = torch.tensor([[[[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]]]])
    pooled, switches = pool_with_switches(x, 2)
    assert pooled[0, 0].tolist() == [[5, 6], [7, 8]]
    given = torch.tensor([[[[1.0, 2], [3, 4]]]])
    expected = [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]
    assert max_unpool(given, switches, 2)[0, 0].tolist() == expected


@every_ndim
def test_unpooling_a_pooled_map_keeps_the_maxima_alone(ndim: int) -> None:
    x = maps(*(2 * n + 1 for n in SHAPES[ndim]))
    back = max_unpool(*pool_with_switches(x, 2), 2, size=tuple(x.shape[2:]))
    kept = back != 0
    assert torch.equal(back[kept], x[kept])
    assert torch.equal(pool_with_switches(back.where(kept, -torch.inf), 2)[0], pool_with_switches(x, 2)[0])
    assert kept.sum() == pool_with_switches(x, 2)[0].numel()


# ---------------------------------------------------------------- linear interpolation


def test_kernels_by_their_formula() -> None:
    assert bilinear_kernel(3).tolist() == [0.5, 1.0, 0.5]
    assert bilinear_kernel(4).tolist() == [0.25, 0.75, 0.75, 0.25]
    side = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(bilinear_kernel(4, ndim=2), side[:, None] * side)
    assert [float(bilinear_kernel(2 * f, ndim=2).sum()) for f in (2, 8, 32)] == [4, 64, 1024]


@every_ndim
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 8])
def test_bilinear_upsampling_is_resizing_at_borders_too(ndim: int, factor: int) -> None:
    x = maps(*SHAPES[ndim])
    layer = BilinearUpsampling(factor, ndim).double()
    torch.testing.assert_close(layer(x), resized(x, factor), atol=1e-6, rtol=0)
    one = x.flatten(2)[..., :1].reshape(2, 3, *(1,) * ndim)
    torch.testing.assert_close(layer(one), resized(one, factor), atol=1e-6, rtol=0)


@every_ndim
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_transposed_convolution_is_resizing_but_for_half_a_cell_of_border(ndim: int, factor: int) -> None:
    x, half = maps(*SHAPES[ndim]), factor // 2
    layer = BilinearTransposed(3, 2 * factor, factor, half, ndim=ndim).double()
    inner: tuple[Any, ...] = (..., *(slice(half, -half),) * ndim)
    difference = (layer(x) - resized(x, factor)).abs()
    assert difference[inner].max() < 1e-6
    assert difference.max() > 0.1


@every_ndim
@pytest.mark.parametrize("factor", [2, 3, 8])
def test_an_odd_kernel_is_resizing_with_aligned_corners_everywhere(ndim: int, factor: int) -> None:
    x = maps(*SHAPES[ndim])
    layer = BilinearTransposed(3, 2 * factor - 1, factor, factor - 1, ndim=ndim).double()
    size = [factor * (n - 1) + 1 for n in x.shape[2:]]
    expected = F.interpolate(x, size=size, mode=LINEAR_MODE[ndim], align_corners=True)
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=0)


@every_ndim
@pytest.mark.parametrize("kind", ["resize", "transposed"])
def test_fixed_kernels_are_neither_parameters_nor_state(ndim: int, kind: str) -> None:
    layer: nn.Module = (
        BilinearUpsampling(2, ndim) if kind == "resize" else BilinearTransposed(2, 4, 2, 1, ndim=ndim)
    )
    assert not list(layer.parameters())
    assert not layer.state_dict()
    x = torch.randn(1, 2, *SHAPES[ndim])
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert isinstance(layer, CONV_TRANSPOSE[ndim]) == (kind == "transposed")
    assert layer.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "up", [BilinearUpsampling(4), BilinearTransposed(3, 8, 4, 2)], ids=["resize", "spread"]
)
@torch.no_grad()
def test_fixed_layers_have_rules(up: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 4, 4), up).eval()
    field = derive_field(network, 2)
    assert (field.stride, field.halo, field.exact) == ((4, 4), ((4, 4), (4, 4)), True)
    x = torch.randn(1, 3, 24, 16)
    for box in (((0, 9), (5, 16)), ((7, 8), (0, 1)), ((11, 24), (3, 12))):
        part = network(x)[(..., *(slice(*side) for side in box))]
        assert torch.equal(ProgressiveNetwork(network, 2)(x, box), part)


# ---------------------------------------------------------------- the matrix view


def matrix(layer: nn.Module, channels: int, length: int) -> torch.Tensor:
    """Return the matrix of a linear layer on maps of `length` pixels, one row for each output value."""
    ones = torch.eye(channels * length, dtype=torch.float64).reshape(-1, channels, length)
    with torch.no_grad():
        columns: torch.Tensor = layer(ones).flatten(1)
    return columns.T


@pytest.mark.parametrize(("stride", "length"), [(1, 6), (2, 7)])
def test_the_matrix_of_a_transposed_convolution_is_the_transpose(stride: int, length: int) -> None:
    conv = nn.Conv1d(2, 3, 3, stride, 1, bias=False).double()
    spread = nn.ConvTranspose1d(3, 2, 3, stride, 1, bias=False).double()
    spread.weight = conv.weight
    rows = matrix(conv, 2, length)
    assert torch.equal(matrix(spread, 3, rows.shape[0] // 3), rows.T)


def test_a_transposed_convolution_is_a_convolution_only_at_stride_1() -> None:
    def is_toeplitz(rows: torch.Tensor) -> bool:
        return torch.equal(rows[1:, 1:], rows[:-1, :-1])

    assert is_toeplitz(matrix(nn.ConvTranspose1d(1, 1, 3, 1, 1, bias=False).double(), 1, 6))
    assert not is_toeplitz(matrix(nn.ConvTranspose1d(1, 1, 3, 2, 1, bias=False).double(), 1, 6))


def test_the_example_of_one_dimension() -> None:
    """Each input value, times the kernel, is added where the kernel lands, two pixels further on."""
    spread = nn.ConvTranspose1d(1, 1, 3, 2, bias=False)
    spread.weight.data = torch.tensor([[[2.0, 3.0, 5.0]]])
    a, b = 7.0, 11.0
    assert spread(torch.tensor([[[a, b]]])).flatten().tolist() == [2 * a, 3 * a, 5 * a + 2 * b, 3 * b, 5 * b]


# ---------------------------------------------------------------- checkerboards, and learned kernels


@pytest.mark.parametrize(
    ("kernel", "stride", "counts"),
    [(4, 2, (2, 2)), (2, 2, (1, 1)), (3, 2, (2, 1)), (3, 1, (3,)), (5, 3, (2, 2, 1)), (1, 2, (1, 0))],
)
def test_overlaps_are_what_ones_add_up_to(kernel: int, stride: int, counts: tuple[int, ...]) -> None:
    assert overlap_counts(kernel, stride) == counts
    ones = F.conv_transpose1d(torch.ones(1, 1, 9), torch.ones(1, 1, kernel), stride=stride)
    assert ones[0, 0, 4 * stride : 5 * stride].tolist() == list(counts)


def test_a_kernel_that_the_stride_does_not_divide_is_refused() -> None:
    for kernel, stride in ((4, 2), (2, 2), (64, 32), (3, 1)):
        check_checkerboard(kernel, stride)
    with pytest.raises(NetworkError, match=r"3 moved by 2 sums 1 to 2 .* 4/2 or 2/2"):
        check_checkerboard(3, 2)
    with pytest.raises(NetworkError, match="checkerboard"):
        learned_upsampling(2, 63, 32)


@every_ndim
@pytest.mark.parametrize("channelwise", [False, True])
def test_learned_upsampling_begins_as_interpolation(ndim: int, channelwise: bool) -> None:
    layer = learned_upsampling(3, 4, 2, 1, channelwise=channelwise, ndim=ndim)
    fixed = BilinearTransposed(3, 4, 2, 1, ndim=ndim)
    x = maps(*SHAPES[ndim]).float()
    torch.testing.assert_close(layer(x), fixed(x))
    (weight,) = layer.parameters()
    assert weight.numel() == (3 if channelwise else 9) * 4**ndim
    assert weight.requires_grad


def test_a_kernel_of_odd_size_fits_into_a_wider_layer() -> None:
    layer = learned_upsampling(2, 4, 2)
    fill_bilinear(layer, 3)
    x = maps(4, 5)[:, :2].float()
    torch.testing.assert_close(layer(x)[..., :-1, :-1], BilinearTransposed(2, 3, 2)(x))
    assert not layer(x)[..., -1].any()


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("factor", [0, -1, 1.5, True])
def test_factors_are_whole_numbers(factor: int) -> None:
    for function in (nearest, bed_of_nails):
        with pytest.raises(NetworkError, match=r"factor=.*whole number of at least 1"):
            function(torch.zeros(1, 1, 2), factor)
    with pytest.raises(NetworkError, match="factor="):
        BilinearUpsampling(factor)


def test_other_impossible_layers_are_refused() -> None:
    with pytest.raises(NetworkError, match="ndim=4"):
        BilinearUpsampling(2, ndim=4)
    with pytest.raises(NetworkError, match="ndim=4"):
        BilinearTransposed(1, 4, 2, ndim=4)
    with pytest.raises(NetworkError, match="stride=0"):
        BilinearTransposed(1, 4, 0)
    with pytest.raises(NetworkError, match="size=0"):
        bilinear_kernel(0)
