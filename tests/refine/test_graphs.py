"""Which pixels and regions touch, counted one by one."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine.graphs import alike, pixel_graph, region_graph, unit_image


@pytest.mark.parametrize(
    ("shape", "connectivity"),
    [((5,), 1), ((3, 4), 1), ((3, 4), 2), ((2, 3, 2), 1), ((2, 3, 2), 2), ((2, 3, 2), 3)],
)
def test_pixels_that_touch(shape: tuple[int, ...], connectivity: int) -> None:
    places = list(product(*map(range, shape)))
    expected = {}
    for (i, a), (j, b) in combinations(enumerate(places), 2):
        steps = [abs(p - q) for p, q in zip(a, b, strict=True)]
        if max(steps) == 1 and sum(steps) <= connectivity:
            expected[i, j] = np.sqrt(sum(steps))
    edges, distances = pixel_graph(shape, connectivity)
    assert len(edges) == len(expected)
    assert {
        tuple(edge): distance for edge, distance in zip(edges.tolist(), distances, strict=True)
    } == expected


def test_regions_that_touch_and_how_long() -> None:
    labels = np.random.default_rng(0).integers(1, 6, (3, 5, 4))
    expected: dict[tuple[int, int], int] = {}
    for pair in pixel_graph(labels.shape)[0]:
        low, high = sorted(int(labels.flat[n]) - 1 for n in pair)
        if low != high:
            expected[low, high] = expected.get((low, high), 0) + 1
    edges, borders = region_graph(labels)
    assert list(map(tuple, edges.tolist())) == sorted(expected)
    assert borders.tolist() == [expected[key] for key in sorted(expected)]
    assert region_graph(np.ones((3, 3), int))[0].shape == (0, 2)


def test_alike_is_a_gaussian_of_the_difference() -> None:
    features = np.random.default_rng(1).random((6, 3)).astype(np.float32)
    edges = np.array([[0, 5], [2, 2], [4, 1]])
    squared = ((features[edges[:, 0]] - features[edges[:, 1]]) ** 2).sum(1)
    np.testing.assert_allclose(alike(features, edges, 0.4), np.exp(-squared / 0.32), rtol=1e-6)


def test_images_come_to_one_range_by_type_not_by_extremes() -> None:
    assert unit_image(np.array([[51, 102]], np.uint8)).ravel().tolist() == pytest.approx([0.2, 0.4])
    assert unit_image(np.array([[0.25, 0.5]])).ravel().tolist() == [0.25, 0.5]
    assert unit_image(np.zeros((3, 4, 5), np.uint16), channel_axis=0).shape == (4, 5, 3)
    with pytest.raises(InputError, match="channel_axis=3 does not exist"):
        unit_image(np.zeros((3, 4)), channel_axis=3)


def test_a_connectivity_beyond_the_axes_is_refused() -> None:
    with pytest.raises(InputError, match="give 1 to 2"):
        pixel_graph((3, 3), 0)
