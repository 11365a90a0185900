"""Where tiles lie, and that they put an image together again bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError, TilingError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.tiling.padding import read_mirrored
from napari_fcnseg.tiling.plan import TilePlan, plan_tiles, round_up


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    """Return plans of small images, larger and smaller than their padding."""
    ndim = draw(st.integers(1, 3))
    shape = [draw(st.integers(1, (90, 24, 10)[ndim - 1])) for _ in range(ndim)]
    stride = [draw(st.integers(1, 5)) for _ in range(ndim)]
    border = tuple((draw(st.integers(0, 6)), draw(st.integers(0, 6))) for _ in range(ndim))
    steps = st.integers(0, 3)
    halo = tuple((a + s * draw(steps), b + s * draw(steps)) for (a, b), s in zip(border, stride, strict=True))
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    region = tuple((a, draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True))
    return plan_tiles(
        shape, stride=stride, halo=halo, border=border,
        core_shape=[draw(st.integers(max(1, n // 3), n + 3)) for n in shape],
        leading=draw(st.lists(st.integers(1, 2), max_size=2)),
        region=draw(st.sampled_from([None, region])),
    )  # fmt: skip


def index(box: Box, leading: tuple[int, ...] = ()) -> tuple[Any, ...]:
    """Return what picks a box out of an array, at one place of the leading axes or at all."""
    return (*(leading or (...,)), *(slice(*side) for side in box))


def cropped(image: NDArray[Any], box: Box) -> NDArray[Any]:
    pixels: NDArray[Any] = image[index(box)]
    return pixels


def assemble(
    plan: TilePlan, image: NDArray[Any], network: Callable[[NDArray[Any]], NDArray[Any]]
) -> NDArray[Any]:
    """Run a network over the tiles of a plan; pixels that no tile writes stay -1."""
    result = np.full_like(image, -1)
    for tile in plan:
        scores = network(read_mirrored(partial(cropped, image[tile.leading]), tile.read, plan.shape))
        result[index(tile.core, tile.leading)] = cropped(scores, tile.keep)
    return result


def picture(plan: TilePlan) -> NDArray[np.int64]:
    shape = plan.leading + plan.shape
    return np.random.default_rng(1).permutation(math.prod(shape)).reshape(shape)


@given(plans())
def test_an_identity_network_gives_the_image_back(plan: TilePlan) -> None:
    lost = tuple(slice(before, -after or None) for before, after in plan.border)
    image = picture(plan)
    expected = np.full_like(image, -1)
    expected[index(plan.region)] = cropped(image, plan.region)
    assert_array_equal(assemble(plan, image, lambda x: x[lost]), expected)


@given(plans())
def test_every_pixel_of_the_region_is_written_once(plan: TilePlan) -> None:
    written = np.zeros(plan.leading + plan.shape, int)
    for tile in plan:
        assert all(start < stop for start, stop in tile.core)
        written[index(tile.core, tile.leading)] += 1
    expected = np.zeros_like(written)
    expected[index(plan.region)] = 1
    assert_array_equal(written, expected)


@given(plans())
def test_tiles_come_in_c_order(plan: TilePlan) -> None:
    tiles = list(plan)
    assert [tile.index for tile in tiles] == list(range(len(plan)))
    places = [(*tile.leading, *(start for start, _ in tile.core)) for tile in tiles]
    assert places == sorted(places)
    assert len(plan) == math.prod(plan.leading) * math.prod(plan.grid)
    assert tiles == list(plan)


@given(plans())
def test_reads_are_aligned_and_stay_in_the_padded_image(plan: TilePlan) -> None:
    for tile, axis in product(plan, range(len(plan.shape))):
        (start, stop), (low, high), stride = tile.read[axis], plan.padded[axis], plan.stride[axis]
        before, after = plan.border[axis]
        assert low <= start < stop <= high
        assert (start + before) % stride == 0
        assert (stop - start - before - after) % stride == 0
        assert tile.read_shape[axis] == stop - start


@given(plans())
def test_reads_hold_the_halo_or_end_with_the_padded_image(plan: TilePlan) -> None:
    for tile, axis in product(plan, range(len(plan.shape))):
        (start, stop), (low, high), core = tile.read[axis], plan.padded[axis], tile.core[axis]
        before, after = plan.halo[axis]
        assert start == low or core[0] - start >= before
        assert stop == high or stop - core[1] >= after


@given(plans())
def test_keep_is_the_core_in_the_output_of_the_read(plan: TilePlan) -> None:
    for tile, axis in product(plan, range(len(plan.shape))):
        keep, core, before = tile.keep[axis], tile.core[axis], plan.border[axis][0]
        assert keep[1] - keep[0] == core[1] - core[0]
        assert tile.read[axis][0] + before + keep[0] == core[0]
        assert 0 <= keep[0] < keep[1] <= tile.read_shape[axis] - sum(plan.border[axis])


@given(plans())
def test_json_round_trip(plan: TilePlan) -> None:
    again = TilePlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert hash(again) == hash(plan)
    assert list(again) == list(plan)


@given(plans(), st.integers(2, 5))
def test_a_pooling_network_sees_the_windows_of_the_whole_image(plan: TilePlan, size: int) -> None:
    """Give each pixel the sum of its pooling window; windows count from where the image begins."""
    windows = [math.gcd(stride, size) for stride in plan.stride]
    lost = tuple(slice(a, -b or None) for a, b in plan.border)

    def pool(x: NDArray[Any]) -> NDArray[Any]:
        x = x[lost]
        for axis, window in enumerate(windows):
            sums = np.add.reduceat(x, range(0, x.shape[axis], window), axis=axis)
            x = np.repeat(sums, window, axis=axis)
        return x

    image = picture(plan)
    aligned = [round_up(n, step) for n, step in zip(plan.shape, plan.stride, strict=True)]
    whole = plan_tiles(
        plan.shape,
        core_shape=aligned,
        stride=plan.stride,
        halo=plan.halo,
        border=plan.border,
        leading=plan.leading,
    )
    assert len(whole) == math.prod(plan.leading)
    got, expected = (cropped(assemble(p, image, pool), plan.region) for p in (plan, whole))
    assert_array_equal(got, expected)


SHIFTS = [(-1,), (1,), (2,), (-3,), (1, -2), (-2, 0), (1, -1, 2)]


def shifted(x: NDArray[Any], shift: tuple[int, ...]) -> NDArray[Any]:
    """Shift like a zero-padded convolution whose kernel has a single one, off its centre."""
    reach = max(map(abs, shift))
    padded = np.pad(x, reach)
    return padded[tuple(slice(reach + s, reach + s + n) for s, n in zip(shift, x.shape, strict=True))]


@pytest.mark.parametrize("shift", SHIFTS)
@given(data=st.data())
def test_a_shifting_network_equals_the_whole(shift: tuple[int, ...], data: st.DataObject) -> None:
    """The network pads with zeros, so that a seam without a halo would show."""
    ndim, reach = len(shift), max(map(abs, shift))
    shape = [data.draw(st.integers(1, (60, 20, 9)[ndim - 1])) for _ in shift]
    core = [data.draw(st.integers(1 + n // 4, n)) for n in shape]
    halo = ((reach, reach),) * ndim
    plan = plan_tiles(shape, core_shape=core, stride=(1,) * ndim, halo=halo)
    image = 1 + picture(plan)
    assert_array_equal(assemble(plan, image, lambda x: shifted(x, shift)), shifted(image, shift))


@pytest.mark.parametrize("shift", SHIFTS)
@given(data=st.data())
def test_a_shifting_network_that_loses_a_border_sees_the_mirrored_image(
    shift: tuple[int, ...], data: st.DataObject
) -> None:
    ndim, reach = len(shift), max(map(abs, shift))
    shape = [data.draw(st.integers(1, (60, 20, 9)[ndim - 1])) for _ in shift]
    core = [data.draw(st.integers(1 + n // 4, n)) for n in shape]
    margins = ((reach, reach),) * ndim
    plan = plan_tiles(shape, core_shape=core, stride=(1,) * ndim, halo=margins, border=margins)
    image = picture(plan)

    def network(x: NDArray[Any]) -> NDArray[Any]:
        inside = (slice(reach + s, n - reach + s) for s, n in zip(shift, x.shape, strict=True))
        return x[tuple(inside)]

    expected = network(np.pad(image, reach, mode="reflect"))
    assert_array_equal(assemble(plan, image, network), expected)


def test_a_halo_too_small_shows_at_seams() -> None:
    """The check above can fail: the same run without a halo."""
    plan = plan_tiles((12,), core_shape=(4,), stride=(1,), halo=((0, 0),))
    image = np.arange(1, 13)
    assert assemble(plan, image, lambda x: shifted(x, (1,))).tolist() == [
        2,
        3,
        4,
        0,
        6,
        7,
        8,
        0,
        10,
        11,
        12,
        0,
    ]


def test_the_drawing_of_the_module() -> None:
    plan = plan_tiles((250,), core_shape=(64,), stride=(16,), halo=((32, 32),))
    tiles = list(plan)
    assert plan.padded == ((0, 256),)
    assert [tile.core for tile in tiles] == [((0, 64),), ((64, 128),), ((128, 192),), ((192, 250),)]
    assert [tile.read for tile in tiles] == [((0, 96),), ((32, 160),), ((96, 224),), ((160, 256),)]
    assert [tile.keep for tile in tiles] == [((0, 64),), ((32, 96),), ((32, 96),), ((32, 90),)]


def test_tiles_of_a_network_that_loses_a_border() -> None:
    plan = plan_tiles((20,), core_shape=(8,), stride=(4,), halo=((6, 10),), border=((6, 2),))
    tiles = list(plan)
    assert plan.padded == ((-6, 22),)
    assert [tile.read for tile in tiles] == [((-6, 18),), ((2, 22),), ((10, 22),)]
    assert [tile.keep for tile in tiles] == [((0, 8),), ((0, 8),), ((0, 4),)]


def test_the_tiles_of_a_region_stay_on_the_grid_of_the_stride() -> None:
    plan = plan_tiles((40,), core_shape=(8,), stride=(4,), halo=((4, 4),), region=((7, 18),))
    tiles = list(plan)
    assert [tile.core for tile in tiles] == [((7, 12),), ((12, 18),)]
    assert [tile.read for tile in tiles] == [((0, 16),), ((8, 24),)]
    assert [tile.keep for tile in tiles] == [((7, 12),), ((4, 10),)]


def test_leading_axes_come_first() -> None:
    plan = plan_tiles((4, 6), core_shape=(4, 3), stride=(1, 1), halo=((0, 0), (0, 0)), leading=(2, 1))
    assert plan.grid == (1, 2)
    assert [(tile.leading, tile.core[1]) for tile in plan] == [
        ((0, 0), (0, 3)), ((0, 0), (3, 6)), ((1, 0), (0, 3)), ((1, 0), (3, 6)),
    ]  # fmt: skip


def test_core_shapes_are_rounded_up_to_the_stride() -> None:
    plan = plan_tiles((100, 100), core_shape=(17, 32), stride=(16, 16), halo=((16, 16),) * 2)
    assert plan.core_shape == (32, 32)


def test_numpy_numbers_give_a_plan_for_json() -> None:
    shape = tuple(np.array([9, 7]))
    halo = tuple((n, n) for n in np.array([2, 2]))
    plan = plan_tiles(
        shape, core_shape=np.array([4, 4]).tolist(), stride=np.array([2, 2]).tolist(), halo=halo
    )
    assert TilePlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_plan_and_its_tiles_are_frozen() -> None:
    plan = plan_tiles((8,), core_shape=(4,), stride=(1,), halo=((0, 0),))
    for frozen, name in ((plan, "shape"), (next(iter(plan)), "core")):
        with pytest.raises(FrozenInstanceError):
            setattr(frozen, name, (9,))


@pytest.mark.parametrize(
    ("shape", "core", "halo", "expected"),
    [
        # reads of 6 + 8 + 6 pixels for cores of 4 + 4 + 4
        ((12,), (4,), ((2, 2),), 20 / 12),
        # one tile: nothing but the padding from 9 to 10 is read beyond the core
        ((9,), (10,), ((4, 4),), 10 / 9),
        # 6 + 6 for 4 + 4 on one axis, 8 for 8 on the other
        ((8, 8), (4, 8), ((2, 2), (2, 2)), 12 / 8),
    ],
)
def test_redundancy_worked_by_hand(
    shape: tuple[int, ...], core: tuple[int, ...], halo: Box, expected: float
) -> None:
    plan = plan_tiles(shape, core_shape=core, stride=(2,) * len(shape), halo=halo)
    assert plan.redundancy == pytest.approx(expected)


@given(plans())
def test_redundancy_is_what_the_tiles_read_for_what_they_write(plan: TilePlan) -> None:
    read = sum(math.prod(b - a for a, b in tile.read) for tile in plan)
    written = sum(math.prod(b - a for a, b in tile.core) for tile in plan)
    assert plan.redundancy == pytest.approx(read / written)


@pytest.mark.parametrize(
    ("tile", "expected"), [(256, 16.0), (512, 2.56), (1024, 1.52), (2048, 1.22), (4096, 1.10)]
)
def test_redundancy_by_input_tile_at_halo_96(tile: int, expected: float) -> None:
    """The figures of the paper trail: interior tiles of a large image, halo 96."""
    core = tile - 2 * 96
    region = ((core * 3, core * 5),) * 2
    plan = plan_tiles(
        (core * 8,) * 2, core_shape=(core,) * 2, stride=(16,) * 2, halo=((96, 96),) * 2, region=region
    )
    assert {t.read_shape for t in plan} == {(tile, tile)}
    assert plan.redundancy == pytest.approx(expected, rel=0.005)


def test_describe() -> None:
    plan = plan_tiles((12, 8), core_shape=(4, 8), stride=(2, 2), halo=((2, 2), (4, 2)))
    assert plan.describe() == "3 tiles of 4 x 8, halo 4, 1.67x redundant"
    single = plan_tiles((12,), core_shape=(12,), stride=(1,), halo=((2, 2),))
    assert single.describe() == "1 tile of 12, halo 2, 1.00x redundant"


FINE: dict[str, Any] = {
    "shape": (32, 32), "core_shape": (16, 16), "stride": (4, 4), "halo": ((8, 8), (8, 8)),
    "border": ((0, 0), (0, 0)), "leading": (), "region": None,
}  # fmt: skip

REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"shape": (32, 0)}, InputError, r"zero-sized axis \(shape \(32, 0\)\)"),
    ({"leading": (0,)}, InputError, r"zero-sized axis \(shape \(0, 32, 32\)\)"),
    ({"region": ((0, 33), (0, 32))}, InputError, r"region 0:33 does not lie in an axis of 32"),
    ({"region": ((0, 32), (-1, 32))}, InputError, r"region -1:32 does not lie in an axis of 32"),
    ({"region": ((5, 5), (0, 32))}, InputError, r"region 5:5 does not lie"),
    ({"core_shape": (16,)}, TilingError, r"got 2, 1, 2, 2, 2, 2 axes for shape, core"),
    ({"stride": (4, 4, 4)}, TilingError, r"got 2, 2, 3, 2, 2, 2 axes"),
    ({"halo": ((8, 8),)}, TilingError, r"got 2, 2, 2, 1, 2, 2 axes"),
    ({"border": ((0, 0),)}, TilingError, r"got 2, 2, 2, 2, 1, 2 axes"),
    ({"region": ((0, 32),)}, TilingError, r"got 2, 2, 2, 2, 2, 1 axes"),
    ({"stride": (4, 0)}, TilingError, r"axis 1: stride 0 and core 16 must be positive"),
    ({"core_shape": (0, 16)}, TilingError, r"axis 0: stride 4 and core 0 must be positive"),
    ({"halo": ((8, -4), (8, 8))}, TilingError, r"axis 0: .* halo \(8, -4\) and border \(0, 0\) not negative"),
    ({"border": ((0, 0), (-4, 0))}, TilingError, r"axis 1: .* border \(-4, 0\) not negative"),
    ({"halo": ((8, 8), (8, 6))}, TilingError, r"a halo of 6 is not the border of 0 plus a multiple of"),
    ({"border": ((2, 0), (0, 0))}, TilingError, r"axis 0: a halo of 8 is not the border of 2 plus"),
    ({"border": ((0, 12), (0, 0))}, TilingError, r"axis 0: a halo of 8 is not the border of 12 plus"),
]  # fmt: skip


def test_the_plan_that_refusals_vary_is_fine() -> None:
    assert len(plan_tiles(**FINE)) == 4


@pytest.mark.parametrize(("change", "error", "message"), REFUSALS)
def test_refusals(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan_tiles(**{**FINE, **change})


@pytest.mark.parametrize("ndim", [0, 4])
def test_images_of_no_or_four_axes_are_refused(ndim: int) -> None:
    with pytest.raises(TilingError, match="give 1 to 3 of each"):
        plan_tiles((8,) * ndim, core_shape=(4,) * ndim, stride=(1,) * ndim, halo=((0, 0),) * ndim)


@given(st.integers(-100, 100), st.integers(1, 20))
def test_round_up(value: int, step: int) -> None:
    above = round_up(value, step)
    assert above % step == 0
    assert value <= above < value + step
