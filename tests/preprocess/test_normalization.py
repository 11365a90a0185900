"""One rule for a whole image: what is decided, from what, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from skimage.data import immunohistochemistry

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.preprocess.normalization import (
    COLOURS,
    Normalization,
    PixelTransform,
    choose_rendering,
    decide_transform,
    white_point,
)
from napari_fcnseg.preprocess.stains import render

DEFAULT = Normalization()


def histology() -> NDArray[np.uint8]:
    """Return the pixels of a stained section, shape (3, n)."""
    image: NDArray[np.uint8] = immunohistochemistry()  # type: ignore[no-untyped-call]
    return np.moveaxis(image, -1, 0).reshape(3, -1)


def dark_field() -> NDArray[np.uint8]:
    """Return the pixels of a colour image with a dark background and a few bright spots."""
    pixels = np.random.default_rng(0).integers(0, 20, (3, 5000), np.uint8)
    pixels[2, :200] = 240
    return pixels


# ---------------------------------------------------------------- percentiles


@pytest.mark.parametrize("dtype", ["uint16", ">i4", "float32", "float64"])
def test_percentiles_of_each_channel_become_zero_and_one(dtype: str) -> None:
    # 0..1000 in random order: the percentile p is 10 p.
    ranks = np.random.default_rng(0).permutation(1001)
    sample = np.stack([ranks, 2000 - 2 * ranks]).astype(dtype)
    found = decide_transform(sample, Normalization(low=2.0, high=99.5), 2)
    assert found == PixelTransform(None, (20.0, 40.0), (975.0, 1950.0))


@given(st_numpy.arrays(np.int32, st.integers(2, 200)), st.floats(0, 49), st.floats(51, 100))
def test_percentiles_are_those_of_numpy(values: NDArray[np.int32], low: float, high: float) -> None:
    found = decide_transform(values[None], Normalization(low=low, high=high), 1)
    wide = values.astype(float)  # NumPy subtracts in the type itself, where int32 can overflow
    bottom, top = np.percentile(wide, (low, high))
    if top - bottom > 1e-6:
        tolerance = 1e-12 * (wide.max() - wide.min())
        assert found.offset == pytest.approx((bottom,), rel=0, abs=tolerance)
        assert found.scale == pytest.approx((top - bottom,), rel=0, abs=tolerance)
    assert found.scale > (0,)
    assert found.constant == (values.min() == values.max())


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint16"])
def test_percentiles_do_not_hang_on_the_type_of_the_same_values(dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 2048, (2, 777))
    assert decide_transform(values.astype(dtype), DEFAULT, 2) == decide_transform(values, DEFAULT, 2)


def test_a_few_bright_pixels_on_an_even_ground() -> None:
    sample = np.full((1, 10_000), 3, np.uint16)
    sample[0, :5] = 900
    found = decide_transform(sample, DEFAULT, 1)
    assert (found.offset, found.scale, found.constant) == ((3.0,), (897.0,), False)


@pytest.mark.parametrize("value", [0, 7, 1e-30, 1e30, -5e300])
def test_a_constant_image_has_nothing_to_find(value: float) -> None:
    found = decide_transform(np.full((1, 50), value), DEFAULT, 1)
    assert found.constant
    assert found.scale == (1.0,)


@pytest.mark.parametrize("value", [0.0, 7.0, 1e30])
def test_a_constant_channel_beside_a_varied_one_is_not_divided_by_zero(value: float) -> None:
    sample = np.stack([np.full(50, value), np.arange(50.0)])
    found = decide_transform(sample, DEFAULT, 2)
    assert not found.constant
    assert found.offset[0] == value
    assert found.scale[0] == 1.0


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("colour", ["auto", "haematoxylin", "luminance"])
@pytest.mark.parametrize(("channels", "in_channels"), [(1, 1), (3, 3), (3, 1)])
def test_no_pixels_at_all(dtype: str, colour: str, channels: int, in_channels: int) -> None:
    """An empty mask leaves no sample, and no warning either."""
    found = decide_transform(np.empty((channels, 0), dtype), Normalization(colour=colour), in_channels)
    assert found.constant
    assert (found.rendering is None) == (channels == in_channels)


# ---------------------------------------------------------------- colour


def section(*, brown: float) -> NDArray[np.uint8]:
    """Return pixels of a section stained by haematoxylin and eosin, and by so much DAB."""
    amounts = np.random.default_rng(0).uniform(0, (0.5, 0.5, brown), (2000, 3))
    density = amounts @ np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    pixels: NDArray[np.uint8] = np.round(255 * np.exp(-density)).astype(np.uint8).T
    return pixels


@pytest.mark.parametrize(("brown", "name"), [(0.0, "nuclear stain"), (2.0, "haematoxylin-dab")])
def test_a_brown_stain_asks_for_separation(brown: float, name: str) -> None:
    assert choose_rendering(section(brown=brown), "auto").name == name


def test_a_bright_section_with_a_brown_stain_is_shown_by_its_haematoxylin() -> None:
    pixels = histology()
    found = decide_transform(pixels, DEFAULT, 1)
    assert found.rendering is not None
    assert (found.rendering.name, found.rendering.white) == ("haematoxylin-dab", 255.0)
    low, high = np.percentile(render(pixels, found.rendering), (1.0, 99.8))
    assert_allclose([found.offset[0], found.scale[0]], [low, high - low], rtol=1e-6)


def test_a_dark_colour_image_is_shown_by_its_luminance() -> None:
    found = decide_transform(dark_field(), DEFAULT, 1)
    assert found.rendering is not None
    assert found.rendering.name == "luminance"


@pytest.mark.parametrize("scale", [1 / 255, 16.0, 257.0])
def test_the_decision_does_not_hang_on_the_range(scale: float) -> None:
    for pixels, name in ((histology(), "haematoxylin-dab"), (dark_field(), "luminance")):
        scaled = pixels * scale if scale < 1 else (pixels * scale).astype(np.uint16)
        assert choose_rendering(scaled, "auto").name == name


@pytest.mark.parametrize("colour", [name for name in COLOURS if name != "auto"])
@pytest.mark.parametrize("pixels", [histology(), dark_field()], ids=["bright", "dark"])
def test_the_user_may_say_otherwise(pixels: NDArray[np.uint8], colour: str) -> None:
    found = decide_transform(pixels, Normalization(colour=colour), 1)
    assert found.rendering is not None
    assert found.rendering.name == colour


def test_channels_that_the_network_takes_are_not_rendered() -> None:
    found = decide_transform(histology(), DEFAULT, 3)
    assert found.rendering is None
    assert len(found.offset) == len(found.scale) == 3


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.full((3, 9), 9, np.uint8), 255.0),
        (np.linspace(0, 0.8, 99).reshape(3, 33), 1.0),
        (np.full((3, 9), 4095, np.uint16), 4095.0),
        (np.full((3, 9), 200.0), 200.0),
    ],
)
def test_white(values: NDArray[Any], white: float) -> None:
    assert white_point(values) == pytest.approx(white)


# ---------------------------------------------------------------- fixed, none


@pytest.mark.parametrize(
    ("offset", "scale", "expected"),
    [((10.0,), (2.0,), ((10.0, 10.0), (2.0, 2.0))), ((1.0, 2.0), (3.0, -4.0), ((1.0, 2.0), (3.0, -4.0)))],
)
def test_fixed_numbers(
    offset: tuple[float, ...], scale: tuple[float, ...], expected: tuple[tuple[float, ...], ...]
) -> None:
    asked = Normalization(method="fixed", offset=offset, scale=scale)
    found = decide_transform(np.arange(20.0).reshape(2, 10), asked, 2)
    assert (found.offset, found.scale) == expected


def test_fixed_numbers_that_do_not_fit_the_channels() -> None:
    asked = Normalization(method="fixed", offset=(1.0, 2.0), scale=(1.0, 1.0))
    with pytest.raises(InputError, match="2 numbers for a network of 3 channels"):
        decide_transform(np.arange(9.0).reshape(3, 3), asked, 3)


def test_none_takes_pixels_as_they_are() -> None:
    found = decide_transform(np.arange(5.0)[None], Normalization(method="none"), 1)
    assert found == PixelTransform(None, (0.0,), (1.0,))


# ---------------------------------------------------------------- what may be asked for


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, Normalization(low=3.0)),
        (Normalization(high=90.0), Normalization(high=90.0)),
        ("none", Normalization(method="none", low=3.0)),
        ("haematoxylin", Normalization(colour="haematoxylin", low=3.0)),
        ({"high": 98}, Normalization(low=3.0, high=98)),
        (
            {"method": "fixed", "offset": [1.0, 2.0], "scale": [3.0, 4.0]},
            Normalization("fixed", 3.0, offset=(1.0, 2.0), scale=(3.0, 4.0)),
        ),
        (
            {"method": "fixed", "offset": 10, "scale": 2.5},
            Normalization("fixed", 3.0, offset=(10,), scale=(2.5,)),
        ),
    ],
)
def test_what_is_left_out_comes_from_the_model(asked: Any, expected: Normalization) -> None:
    assert Normalization.resolve(asked, Normalization(low=3.0)) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("haematoxilyn", "Did you mean 'haematoxylin'"),
        ("percentiles", "Did you mean 'percentile'"),
        ({"colour": "luminence"}, "Did you mean 'luminance'"),
        ({"metho": "none"}, "Did you mean 'method'"),
        ({"low": 50, "high": 50}, "not in order"),
        ({"low": -1}, "not in order"),
        ({"high": 101}, "not in order"),
        ({"low": float("nan")}, "finite numbers"),
        ({"low": "1"}, "finite numbers"),
        ({"low": None}, "finite numbers"),
        ("fixed", "as many offsets as scales"),
        ({"method": "fixed", "offset": 0, "scale": 0}, "none of them 0"),
        ({"method": "fixed", "offset": [1, 2], "scale": [1]}, "as many offsets as scales"),
        ({"method": "fixed", "offset": "12", "scale": "34"}, "finite numbers"),
        ({"method": "fixed", "offset": 0, "scale": float("inf")}, "finite numbers"),
        (7, "a mapping of its fields"),
    ],
)
def test_what_cannot_be_is_refused(asked: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Normalization.resolve(asked, DEFAULT)


def test_the_record_of_a_transform_is_plain_data() -> None:
    record = decide_transform(histology(), DEFAULT, 1).to_dict()
    assert json.loads(json.dumps(record))["rendering"]["name"] == "haematoxylin-dab"
    assert set(record) == {"rendering", "offset", "scale", "constant"}


def test_standard_is_mean_and_deviation_of_each_channel() -> None:
    pixels = np.random.default_rng(0).integers(0, 60000, (2, 999), np.uint16)
    found = decide_transform(pixels, Normalization("standard"), 2)
    assert_allclose(found.offset, pixels.mean(1))
    assert_allclose(found.scale, pixels.std(1))
    even = decide_transform(np.full((1, 9), 7), Normalization("standard"), 1)
    assert (even.offset, even.scale) == ((7.0,), (1.0,))


@pytest.mark.parametrize("method", ["standard", "percentile"])
def test_channels_taken_together_share_one_rule(method: str) -> None:
    pixels = np.random.default_rng(0).uniform(0, 9, (3, 999)) * [[1], [2], [3]]
    found = decide_transform(pixels, Normalization(method, together=True, eps=0.5), 3)
    one = decide_transform(pixels.reshape(1, -1), Normalization(method), 1)
    assert_allclose(found.offset, one.offset * 3)
    assert_allclose(found.scale, np.array(one.scale * 3) + 0.5)


@pytest.mark.parametrize("asked", [{"eps": -1.0}, {"eps": float("nan")}, {"together": "yes"}])
def test_eps_and_together_that_cannot_be(asked: Any) -> None:
    with pytest.raises(InputError, match="eps"):
        Normalization.resolve(asked, DEFAULT)
