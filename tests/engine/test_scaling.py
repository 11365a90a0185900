"""Which level is read, and by how much it is rescaled."""

from __future__ import annotations

import dask.array as da
import pytest
from tests.engine.small import seeded

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine.scaling import (
    choose_factors,
    choose_resampling,
    nearest_level,
    remaining,
    with_stated_spacing,
)
from napari_fcnseg.io.lazy_image import LazyImage

LEVELS = [(4000, 3000), (2000, 1500), (1000, 750), (250, 187)]


@pytest.mark.parametrize(
    ("factor", "level"),
    [(2.0, 0), (1.0, 0), (0.8, 0), (0.7, 1), (0.5, 1), (0.3, 2), (0.25, 2), (0.126, 2), (0.1, 3), (0.01, 3)],
)
def test_the_level_that_needs_the_least_rescaling(factor: float, level: int) -> None:
    assert nearest_level(LEVELS, (factor, factor)) == level


def test_of_two_levels_the_finer() -> None:
    assert nearest_level([(8, 8), (2, 2)], (0.5, 0.5)) == 0
    assert nearest_level(LEVELS, None) == 0


def test_axes_are_weighed_together() -> None:
    # Levels of a volume often keep z.
    levels = [(40, 800, 800), (40, 400, 400), (20, 200, 200)]
    assert nearest_level(levels, (1.0, 0.5, 0.5)) == 1
    assert remaining(levels[0], levels[1], (1.0, 0.5, 0.4)) == (1.0, 1.0, 0.8)


def test_what_is_left_within_the_tolerance_is_not_rescaled() -> None:
    assert choose_resampling((100, 100), (1.05, 0.95)) is None
    made = choose_resampling((100, 100), (1.05, 0.5))
    assert made is not None
    assert made.after == (100, 50)


@pytest.mark.parametrize(
    ("spacing", "factors"), [({"y": 0.25, "x": 1.0}, (0.5, 2.0)), ((0.25, 0.5), (0.5, 1.0))]
)
def test_factors_of_a_spacing(spacing: object, factors: tuple[float, float]) -> None:
    settings = SegmentSettings(spacing=spacing)  # type: ignore[arg-type]
    assert choose_factors(settings, seeded().record) == factors


@pytest.mark.parametrize("spacing", [(8.1, 8.1), (0.03, 0.03), (0.5, 9.0)])
def test_factors_beyond_reason(spacing: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="factors from 1/16 to 16 are possible"):
        choose_factors(SegmentSettings(spacing=spacing), seeded().record)


def image(scale: dict[str, float], unit: str = "micrometer") -> LazyImage:
    return LazyImage(da.zeros((8, 9)), "yx", scale=scale, units=dict.fromkeys(scale, unit))


def test_the_spacing_of_a_file() -> None:
    record, settings = seeded().record, SegmentSettings()
    stated = image({"y": 250.0, "x": 500.0}, "nanometer")
    assert with_stated_spacing(settings, stated, record).spacing == {"y": 0.25, "x": 0.5}
    given = SegmentSettings(diameter=9)
    assert with_stated_spacing(given, stated, record) is given
    for silent in (image({}), image({"x": 0.5}), image({"y": 1.0, "x": 1.0}, "furlong")):
        assert with_stated_spacing(settings, silent, record).spacing is None
