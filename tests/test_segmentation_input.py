"""Images of every type, layout and content: the same values give the same labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from tests.engine.small import cells, grouped, seeded, texture, tissues, unpadded, volume

from napari_fcnseg import predict, segment
from napari_fcnseg._shared.errors import AxesError, InputError
from napari_fcnseg.io import open_image
from napari_fcnseg.preprocess.normalization import COLOURS

# Whole numbers below 128, so that every type holds them.
WHOLE = np.round(texture(40, 44) * 100).clip(0, 127)
EXPECTED = {kind: segment(WHOLE, cells(), kind=kind) for kind in ("classes", "instances")}
TYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">u2", ">i4", ">u8", ">f4", ">f8"]


@pytest.mark.parametrize("dtype", TYPES)
def test_types(dtype: str) -> None:
    image = WHOLE.astype(dtype)
    for kind, labels in EXPECTED.items():
        np.testing.assert_array_equal(segment(image, cells(), kind=kind), labels)


def test_booleans() -> None:
    image = WHOLE > 50
    np.testing.assert_array_equal(segment(image, cells()), segment(image.astype(float), cells()))
    assert len(np.unique(segment(image, cells()))) == 2


def layouts() -> dict[str, Any]:
    read_only = WHOLE.astype(np.float32)
    read_only.setflags(write=False)
    padded = np.zeros((80, 88), np.uint8)
    padded[::2, ::2] = WHOLE
    return {
        "read-only": read_only,
        "strided": padded[::2, ::2],
        "backwards": np.ascontiguousarray(WHOLE[::-1, ::-1])[::-1, ::-1],
        "Fortran": np.asfortranarray(WHOLE),
        "transposed": np.ascontiguousarray(WHOLE.T).T,
        "a list": WHOLE.tolist(),
        "broadcast": np.broadcast_to(WHOLE, (1, 40, 44))[0],
    }


@pytest.mark.parametrize("name", layouts())
def test_memory_layouts(name: str) -> None:
    np.testing.assert_array_equal(segment(layouts()[name], cells()), EXPECTED["classes"])
    np.testing.assert_array_equal(segment(layouts()[name], cells(), kind="instances"), EXPECTED["instances"])


def test_the_image_is_left_as_it_is() -> None:
    image = WHOLE.copy()
    image[0, 0] = np.nan
    mask = np.isfinite(image)
    copies = image.copy(), mask.copy()
    segment(image, cells(), mask=mask)
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(mask, copies[1])


@pytest.mark.parametrize(
    ("offset", "factor", "dtype"),
    [
        (1e9, 1, "f8"), (-1e12, 1, "f8"), (0, 1e-30, "f8"), (0, 1e30, "f8"), (2**40, 3, "i8"),
        (2**44, 1, "u8"), (-(2**30), 8, "i4"), (2**20, 1, "f4"), (0, 1e-30, "f4"), (60_000, 30, "u2"),
    ],
)  # fmt: skip
def test_huge_and_tiny_values(offset: float, factor: float, dtype: str) -> None:
    """Normalisation takes offset and scale away, with no digit of the contrast lost."""
    image = (WHOLE.astype(np.float64) * factor + offset).astype(dtype)
    values = image.astype(np.float64)
    assert len(np.unique(values)) > 50
    same = (values - offset) / factor
    np.testing.assert_array_equal(segment(image, cells()), segment(same, cells()))
    np.testing.assert_allclose(predict(image, cells()), predict(same, cells()), atol=1e-4)


@pytest.mark.parametrize("value", [0, 7, 255, -3.5, 1e300])
def test_a_constant_image_is_empty(value: float) -> None:
    image = np.full((20, 30), value)
    for model in (cells(), seeded(), grouped(), unpadded()):
        for kind in ("classes", "instances"):
            labels = segment(image, model, kind=kind)
            assert labels.shape == (20, 30)
            assert not labels.any()
    scores = predict(image, cells())
    assert (scores[0] == 1).all()
    assert (scores[1] == 0).all()
    assert np.isfinite(predict(image, cells(), raw=True)).all()


def test_an_image_without_pixels_that_count_is_empty() -> None:
    nowhere = np.zeros(WHOLE.shape, bool)
    image = np.full(WHOLE.shape, np.nan)
    for kind in ("classes", "instances"):
        assert not segment(WHOLE, cells(), kind=kind, mask=nowhere).any()
        assert not segment(image, cells(), kind=kind, mask=nowhere).any()
    assert (predict(WHOLE, cells(), mask=nowhere)[0] == 1).all()


def test_a_constant_channel_is_no_constant_image() -> None:
    image = texture(2, 30, 31)
    image[0] = 5
    assert len(np.unique(segment(image, tissues(), channel_axis=0))) > 1


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8"])
def test_nan_and_infinity_are_counted(dtype: str) -> None:
    image = WHOLE.astype(dtype)
    image[3, 4:7] = np.nan
    image[9, 9], image[10, 9] = np.inf, -np.inf
    says = r"3 NaN and 2 infinite values; leave them out with mask=numpy\.isfinite\(image\), or fill them"
    for verb in (segment, predict):
        with pytest.raises(InputError, match=says):
            verb(image, cells())
    mask = np.isfinite(image)
    mask[3, 5:7] = True
    with pytest.raises(InputError, match="2 NaN and 0 infinite"):  # the others are masked
        segment(image, cells(), mask=mask)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_masked_nan_works(dtype: str, bad: float) -> None:
    image = (WHOLE + 1000).astype(dtype)
    mask = np.ones(image.shape, bool)
    mask[10:14, 20:25] = False
    image[~mask] = bad
    labels = segment(image, cells(), mask=mask)
    assert not labels[~mask].any()
    far = np.ones(image.shape, bool)
    far[:38, :] = False  # beyond the halo of 24 pixels nothing is changed
    finite = np.where(mask, image, 1000)
    np.testing.assert_array_equal(labels[far], segment(finite, cells(), mask=mask)[far])
    assert labels[mask].any()


def test_what_stands_in_for_nan_is_seen_as_background() -> None:
    """Each channel gets the value that its own normalisation makes 0."""
    image = texture(2, 30, 31)
    image[1] = image[1] * 1e4 + 5e5
    mask = np.ones((30, 31), bool)
    mask[10:20, 12:20] = False
    image[:, ~mask] = np.nan
    low = [np.percentile(channel[mask].astype(np.float64), 1) for channel in image]
    filled = np.where(mask, image, np.array(low).reshape(2, 1, 1))
    expected = predict(filled, tissues(), channel_axis=0, mask=mask, raw=True)
    got = predict(image, tissues(), channel_axis=0, mask=mask, raw=True)
    np.testing.assert_allclose(got, expected, atol=2e-3)


@pytest.mark.parametrize("rule", [name for name in COLOURS if name != "auto"])
def test_masked_nan_in_colours(rule: str) -> None:
    image = texture(30, 31, 3).clip(0, 1)
    mask = np.ones((30, 31), bool)
    mask[10:20, 12:20] = False
    image[~mask] = np.nan
    labels = segment(image, seeded(), kind="classes", channel_axis=-1, mask=mask, normalization=rule)
    assert not labels[~mask].any()
    assert labels[mask].any()


def test_every_float_image_is_checked_everywhere_at_once() -> None:
    from napari_fcnseg.engine.layout import Layout
    from napari_fcnseg.engine.run import check_everywhere
    from napari_fcnseg.engine.source import Source

    stack = np.zeros((3, 40, 50), np.float32)
    stack[0, 0, 0] = stack[1, 39, 49] = np.nan
    stack[2, 20, 20] = np.inf
    layout = Layout((0,), (1, 2), axes="tyx")
    for block in (1, 100, 10**6):
        with pytest.raises(InputError, match="2 NaN and 1 infinite"):
            check_everywhere(Source.whole(stack, layout), block)
        check_everywhere(Source.whole(stack, layout, np.isfinite(stack)), block)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_a_zero_sized_axis_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="zero-sized axis"):
        segment(np.zeros(shape), cells())
    with pytest.raises(InputError, match="zero-sized axis"):
        predict(np.zeros((3, *shape)), cells(), axes="tyx")


@pytest.mark.parametrize("image", [np.zeros((5, 5), complex), np.full((5, 5), "a"), np.full((5, 5), None)])
def test_what_is_no_number_is_refused(image: Any) -> None:
    with pytest.raises(InputError, match="integers, floats and booleans can be segmented"):
        segment(image, cells())


def test_masked_arrays_are_not_taken_without_their_mask() -> None:
    with pytest.raises(InputError, match=r"image\.data and mask=~image\.mask"):
        segment(np.ma.masked_less(WHOLE, 20), cells())


def test_scalars_and_rows_are_refused() -> None:
    with pytest.raises(AxesError, match="an array of 2 dimensions"):
        segment(5, cells())
    with pytest.raises(AxesError, match="an array of 3 dimensions, or a model of fewer"):
        segment([1, 2, 3], volume())


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (1, 44), (44, 1), (3, 3)])
def test_the_smallest_images(shape: tuple[int, int]) -> None:
    image = texture(*shape)
    for model in (cells(), seeded(), unpadded(), grouped()):
        for kind in ("classes", "instances"):
            assert segment(image, model, kind=kind).shape == shape
        assert predict(image, model).sum(0) == pytest.approx(np.ones(shape), abs=1e-5)


def test_axes_that_a_file_does_not_state_are_asked_for(tmp_path: Path) -> None:
    colours = (texture(40, 44, 3).clip(0, 1) * 255).astype(np.uint8)
    stored = zarr.create_array(tmp_path / "a.zarr", shape=colours.shape, dtype="uint8")
    stored[...] = colours
    with pytest.raises(AxesError, match=r'channel_axis=-1 .*channel_axis=0 .*axes="tyx"; axes="zyx"'):
        segment(open_image(tmp_path / "a.zarr"), seeded())
    for said in ({"axes": "yxc"}, {"channel_axis": -1}):
        labels = segment(open_image(tmp_path / "a.zarr"), seeded(), **said)
        np.testing.assert_array_equal(labels, segment(colours, seeded(), axes="yxc"))

    pages = texture(5, 40, 44)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", metadata=None)
    with pytest.raises(AxesError, match=r'channel_axis=0 .*axes="tyx"; axes="zyx"'):
        segment(open_image(tmp_path / "a.tif"), cells())
    labels = segment(open_image(tmp_path / "a.tif"), cells(), axes="tyx")
    np.testing.assert_array_equal(labels, segment(pages, cells(), axes="tyx"))
    # As many dimensions as the model looks along: the rule for plain arrays.
    deep = segment(open_image(tmp_path / "a.tif"), volume())
    np.testing.assert_array_equal(deep, segment(pages, volume()))


@pytest.mark.parametrize("options", [{"ome": True}, {"imagej": True}, {}])
def test_axes_that_a_file_states_are_used(tmp_path: Path, options: dict[str, Any]) -> None:
    pages = texture(3, 40, 44)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", metadata={"axes": "TYX"}, **options)
    labels = segment(open_image(tmp_path / "a.tif"), cells())
    np.testing.assert_array_equal(labels, segment(pages, cells(), axes="tyx"))


def test_colours_that_a_file_states_are_used(tmp_path: Path) -> None:
    colours = (texture(40, 44, 3).clip(0, 1) * 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    labels = segment(open_image(tmp_path / "a.tif"), seeded())
    np.testing.assert_array_equal(labels, segment(colours, seeded(), axes="yxc"))
