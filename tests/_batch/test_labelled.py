"""The size of pixels of a level in those of the finest."""

from __future__ import annotations

import pytest

from napari_fcnseg._batch.labelled import _factor


@pytest.mark.parametrize(
    ("fine", "coarse", "factor"),
    [(100, 100, 1), (2967, 741, 4), (2967, 742, 4), (46000, 2875, 16), (100, 40, 2.5), (7, 3, 2), (7, 4, 2)],
)
def test_levels_are_cut_to_whole_pixels(fine: int, coarse: int, factor: float) -> None:
    assert _factor(fine, coarse) == factor
