from __future__ import annotations

import numpy as np
import pytest
import zarr

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.io.label_pyramid import downsampled, pyramid_shapes, sampled_level, write_coarser_levels
from napari_fcnseg.preprocess.resampling import nearest_indices


def test_levels_are_halved_until_they_fit_on_a_screen() -> None:
    assert pyramid_shapes((512, 400), "yx") == [(512, 400)]
    assert pyramid_shapes((3, 40, 2001, 9), "tzyx") == [(3, 40, 2001, 9), (3, 40, 1001, 5), (3, 40, 501, 3)]


def test_levels_of_the_image_are_taken_as_they_are() -> None:
    image = [(100, 90), (25, 22), (6, 6)]
    assert pyramid_shapes((100, 90), "yx", image) == image
    assert pyramid_shapes((4000, 4000), "yx", [(4000, 4000)]) == [(4000, 4000)]
    with pytest.raises(InputError, match=r"labels have the shape \(25, 22\).*image \(100, 90\)"):
        pyramid_shapes((25, 22), "yx", image)


def test_a_level_is_sampled_from_one_four_times_finer() -> None:
    halves = [(4096 >> i, 4096 >> i) for i in range(6)]
    assert [sampled_level(halves, i) for i in range(1, 6)] == [0, 0, 1, 2, 3]
    assert [sampled_level([(4096, 4096), (1024, 1024), (256, 256)], i) for i in (1, 2)] == [0, 1]


@pytest.mark.parametrize("shape", [(12, 33), (11, 32), (47, 128)])
def test_any_box_has_the_nearest_pixels_of_the_whole(shape: tuple[int, int]) -> None:
    fine = np.random.default_rng(0).integers(0, 9, (47, 130)).astype(np.uint16)
    rows, columns = (nearest_indices((0, m), n, m) for n, m in zip(fine.shape, shape, strict=True))
    whole = fine[np.ix_(rows, columns)]
    np.testing.assert_array_equal(downsampled(fine, ((0, shape[0]), (0, shape[1])), shape), whole)
    np.testing.assert_array_equal(downsampled(fine, ((3, 10), (5, 31)), shape), whole[3:10, 5:31])


def test_bands_end_where_chunks_do() -> None:
    fine = zarr.create_array({}, shape=(2, 600, 60_000), chunks=(1, 100, 10_000), dtype="uint8", fill_value=0)
    fine[1, 300:, 20_000:] = 5
    # 60,000 columns of two planes: 69 rows at most are read at once, and a chunk has 100.
    coarse = downsampled(fine, ((0, 2), (0, 150), (0, 15_000)), (2, 150, 15_000))
    expected = np.zeros((2, 150, 15_000), np.uint8)
    expected[1, 75:, 5000:] = 5
    np.testing.assert_array_equal(coarse, expected)


def test_no_level_leaves_its_place_by_a_fifth_of_a_pixel() -> None:
    size = 4096
    levels = [(1, size >> i) for i in range(8)]
    arrays = [zarr.create_array({}, shape=shape, chunks=(1, 512), dtype="int32") for shape in levels]
    arrays[0][0] = np.arange(size)
    write_coarser_levels(arrays)
    for number, array in enumerate(arrays[1:], 1):
        factor = 2**number
        middle = np.arange(size // factor) * factor + (factor - 1) / 2
        assert np.abs(array[0] - middle).max() <= max(0.5, factor / 5)
