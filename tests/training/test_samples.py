"""Annotated images: distances worked by hand, renderings, folders and their faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from skimage.color import rgb2hed
from skimage.io import imsave
from tests.training.conftest import discs, sample_of

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.training.samples import (
    Sample,
    image_kind,
    load_folder,
    normalised,
    object_distance,
    renderings,
    sampling_weights,
)

# ---------------------------------------------------------------- distances


def test_distance_of_an_object_inside() -> None:
    labels = np.zeros((5, 6), np.int32)
    labels[1:4, 1:5] = 7
    expected = np.zeros((5, 6))
    expected[1:4, 1:5] = 0.5
    expected[2, 2:4] = 1
    assert_allclose(object_distance(labels), expected)


def test_the_border_of_the_image_is_no_border() -> None:
    """A cut object is deepest where it is cut: a wider image shows that it goes on."""
    labels = np.zeros((3, 5), np.int32)
    labels[:, :3] = 2
    assert_allclose(object_distance(labels), [[1, 2 / 3, 1 / 3, 0, 0]] * 3)


def test_a_corner_object_is_deepest_in_the_corner() -> None:
    labels = np.zeros((4, 4), np.int32)
    labels[:2, :2] = 1
    expected = np.zeros((4, 4))
    expected[:2, :2] = 0.5  # face neighbours of the background: 1 of 2
    expected[0, 0] = 1
    assert_allclose(object_distance(labels), expected)


def test_touching_objects_have_their_own_border() -> None:
    labels = np.repeat([[0, 1, 1, 1, 2, 2, 2, 0]], 9, axis=0).astype(np.int32)
    assert_allclose(object_distance(labels), [[0, 0.5, 1, 0.5, 0.5, 1, 0.5, 0]] * 9)


def test_every_object_has_its_own_greatest() -> None:
    labels = discs()
    distance = object_distance(labels)
    assert distance.dtype == np.float32
    assert_array_equal(distance > 0, labels > 0)
    for number in np.unique(labels[labels > 0]):
        assert distance[labels == number].max() == 1


def test_an_object_that_fills_the_image_has_no_border() -> None:
    assert_array_equal(object_distance(np.full((4, 5), 3, np.int32)), np.ones((4, 5)))
    assert not object_distance(np.zeros((4, 5), np.int32)).any()


@pytest.mark.parametrize(
    ("labels", "count"),
    [([[0, 3], [5, 3]], 2), ([[4, 4], [4, 4]], 1), ([[0, 0], [0, 0]], 0), ([[1, 2], [3, 4]], 4)],
)
def test_number_of_objects(labels: list[list[int]], count: int) -> None:
    assert sample_of(np.array(labels, np.int32)).n_objects == count


# ---------------------------------------------------------------- pixels


def test_percentiles_become_zero_and_one() -> None:
    values = np.random.default_rng(0).permutation(1001).astype(np.uint16)
    assert_allclose(normalised(values, 2.0, 99.5), (values - 20.0) / 975.0, rtol=1e-6)
    assert_array_equal(normalised(np.full((3, 3), 9, np.uint8)), np.zeros((3, 3)))


def test_a_grey_image_is_shown_once_and_a_colour_image_twice() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    colour = np.random.default_rng(1).integers(1, 256, (20, 30, 4), np.uint8)
    (alone,) = renderings(grey)
    assert_array_equal(alone, normalised(grey))
    stain, dark = renderings(colour)
    assert_allclose(stain, normalised(rgb2hed(colour[..., :3])[..., 0]), atol=1e-4)
    grey_level = colour[..., :3] @ np.array([0.2125, 0.7154, 0.0721])
    assert_allclose(dark, normalised(-grey_level), atol=1e-5)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (np.zeros((4, 4), np.uint8), "fluorescence"),
        (np.full((4, 4), 200, np.uint8), "brightfield"),
        (np.zeros((4, 4, 3), np.uint8), "histology"),
    ],
)
def test_kinds(image: NDArray[np.uint8], kind: str) -> None:
    assert image_kind(image) == kind


# ---------------------------------------------------------------- folders


def written(folder: Path, name: str, image: NDArray[Any], labels: NDArray[Any]) -> None:
    for part, values in (("images", image), ("labels", labels)):
        (folder / part).mkdir(exist_ok=True)
        imsave(folder / part / f"{name}.png", values, check_contrast=False)


def spoiled(folder: Path, how: str) -> None:
    """Take something away from a good folder, or put something wrong in its place."""
    if how == "no images":
        (folder / "images" / "a.png").unlink()
        (folder / "images" / "b.png").unlink()
    elif how == "no mask":
        (folder / "labels" / "b.png").unlink()
    else:
        imsave(folder / "labels" / "b.png", np.zeros((4, 5), np.uint16), check_contrast=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    labels = discs(20, 30).astype(np.uint16)
    random = np.random.default_rng(0)
    written(tmp_path, "b", random.integers(0, 256, (20, 30, 3), np.uint8), labels)
    written(
        tmp_path, "a", random.integers(0, 50, (20, 30), np.uint8), labels + (labels > 0) * np.uint16(40_000)
    )
    return tmp_path


def test_a_folder_is_read_in_order_of_names(folder: Path) -> None:
    one, two = load_folder(folder)
    assert (one.name, one.kind, len(one.renderings)) == ("a", "fluorescence", 1)
    assert (two.name, two.kind, len(two.renderings)) == ("b", "histology", 2)
    assert_array_equal(two.labels.numpy(), discs(20, 30))
    assert_array_equal(one.labels.numpy()[discs(20, 30) > 0], discs(20, 30)[discs(20, 30) > 0] + 40_000)
    assert_array_equal(one.distance.numpy(), object_distance(discs(20, 30)))
    assert {t.dtype for s in (one, two) for t in (*s.renderings, s.labels, s.distance)} == {torch.float32}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no images", r"no PNG files in .*images"),
        ("no mask", r"1 images have no mask of the same name: b\.png"),
        ("other size", r"b\.png is \(20, 30\) but its mask b\.png is \(4, 5\)"),
    ],
)
def test_faults_of_a_folder_are_named(folder: Path, how: str, message: str) -> None:
    spoiled(folder, how)
    with pytest.raises(InputError, match=message):
        load_folder(folder)


def test_larger_and_rarer_images_are_drawn_more_often() -> None:
    def of(side: int, kind: str) -> Sample:
        drawn = sample_of(np.zeros((side, side), np.int32))
        return Sample("x", kind, drawn.renderings, drawn.labels, drawn.distance)

    weights = sampling_weights([of(10, "a"), of(30, "a"), of(20, "b")], {"b": 2.5})
    assert weights.dtype == torch.float64
    assert_allclose(weights, np.array([10, 30, 50]) / 90)


@pytest.mark.data
def test_real_images(real: Callable[[str], Path], tmp_path: Path) -> None:
    folder = real("nuclei_dsb2018/train")
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for path in sorted((folder / "images").glob("*.png"))[:4]:
        for part in ("images", "labels"):
            (tmp_path / part / path.name).write_bytes((folder / part / path.name).read_bytes())
    samples = load_folder(tmp_path)
    assert len(samples) == 4
    for sample in samples:
        assert sample.n_objects > 0
        assert torch.equal(sample.distance > 0, sample.labels > 0)
        assert sample.distance.max() == 1
        assert all(view.shape == sample.labels.shape for view in sample.renderings)
        inside = sample.renderings[0][sample.labels > 0].mean()
        outside = sample.renderings[0][sample.labels == 0].mean()
        if sample.kind != "brightfield":
            assert inside > outside
