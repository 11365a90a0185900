"""Selective grouping against the greedy rule written out, and on coins."""

from __future__ import annotations

import doctest
import itertools
from typing import Any

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import felzenszwalb

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.refine import proposals
from napari_fcnseg.refine.proposals import selective_grouping


def texture(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth: NDArray[np.float64] = ndimage.gaussian_filter(noise, [2, 2, *[0] * (len(shape) - 2)])
    return smooth


def described(image: NDArray[Any], region: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a region's histograms, size and box, each from its pixels."""
    colours, directions = [], []
    for channel in np.moveaxis(image, -1, 0):
        colours.append(np.histogram(channel[region], 25, (0, 1))[0] + 1e-6)
        dy, dx = (ndimage.gaussian_filter(channel, 1.0, order=o)[region] for o in ((1, 0), (0, 1)))
        turn = np.arctan2(dy, dx) / (2 * np.pi) + 0.5
        directions.append(np.histogram(turn, 8, (0, 1), weights=np.hypot(dy, dx))[0] + 1e-6)
    rows, columns = np.nonzero(region)
    box = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    histograms = [np.concatenate(h) / np.concatenate(h).sum() for h in (colours, directions)]
    return {"histograms": histograms, "size": region.sum(), "box": tuple(map(int, box)), "pixels": region}


def alike(one: dict[str, Any], other: dict[str, Any], total: int) -> float:
    common = sum(np.minimum(a, b).sum() for a, b in zip(one["histograms"], other["histograms"], strict=True))
    size = one["size"] + other["size"]
    low, high = np.minimum(one["box"], other["box"])[:2], np.maximum(one["box"], other["box"])[2:]
    return float(common + (1 - size / total) + (1 - (np.prod(high - low) - size) / total))


def grouped_by_hand(image: NDArray[Any], **options: Any) -> list[tuple[int, ...]]:
    """Return the boxes, by comparing all neighbours anew after each merge."""
    image = (image - image.min()) / (image.max() - image.min())
    labels = felzenszwalb(image, channel_axis=-1, **options)
    regions = [described(image, labels == i) for i in range(labels.max() + 1)]
    boxes = [r["box"] for r in regions]
    while len(regions) > 1:
        cross = ndimage.generate_binary_structure(2, 1)
        pairs = [
            (i, j)
            for i, j in itertools.combinations(range(len(regions)), 2)
            if (ndimage.binary_dilation(regions[i]["pixels"], cross) & regions[j]["pixels"]).any()
        ]
        i, j = max(pairs, key=lambda pair: alike(regions[pair[0]], regions[pair[1]], labels.size))
        union = described(image, regions[i]["pixels"] | regions[j]["pixels"])
        regions = [r for k, r in enumerate(regions) if k not in (i, j)] + [union]
        boxes.append(union["box"])
    return list(dict.fromkeys(reversed(boxes)))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_most_similar_neighbours_are_merged_first(channels: int) -> None:
    image = texture(40, 50, channels, seed=channels)
    options: dict[str, Any] = {"scale": 5.0, "sigma": 0.5, "min_size": 30}
    expected = grouped_by_hand(image, **options)
    found = selective_grouping(image, channel_axis=-1, **options)
    assert len(expected) > 20
    assert [tuple(box) for box in found.tolist()] == expected


def test_the_whole_image_comes_first_and_no_box_twice() -> None:
    image = texture(60, 80)
    boxes = selective_grouping(image)
    assert boxes[0].tolist() == [0, 0, 60, 80]
    assert len(np.unique(boxes, axis=0)) == len(boxes) > 5
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= (60, 80)).all()
    assert np.array_equal(selective_grouping(image), boxes)


def test_the_range_of_values_and_the_place_of_channels_do_not_matter() -> None:
    image = texture(48, 64, 3)
    boxes = selective_grouping(image, channel_axis=2)
    assert np.array_equal(selective_grouping(np.moveaxis(image, 2, 0), channel_axis=0), boxes)
    assert np.array_equal(selective_grouping(image * 1024 + 4096, channel_axis=-1), boxes)


def test_coins_are_among_the_proposals() -> None:
    load: Any = skimage.data.coins
    image = load()
    coins = ndimage.binary_opening(image > 107, np.ones((5, 5)))  # the threshold of Otsu
    sides = ndimage.find_objects(ndimage.label(coins)[0])
    found = [(y.start, x.start, y.stop, x.stop) for y, x in sides]
    large = np.array([box for box in found if 25 < min(box[2] - box[0], box[3] - box[1]) < 100])
    boxes = selective_grouping(image, scale=300)
    low = np.maximum(large[:, None, :2], boxes[None, :, :2])
    high = np.minimum(large[:, None, 2:], boxes[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    areas = [(b[:, 2:] - b[:, :2]).prod(-1) for b in (large, boxes)]
    overlap = common / (areas[0][:, None] + areas[1] - common)
    assert len(large) >= 15
    assert (overlap.max(axis=1) > 0.5).mean() >= 0.9
    # No more boxes than a proposal-wise prediction takes, so far.
    assert len(boxes) < 100


def test_even_ground_is_one_region() -> None:
    assert selective_grouping(np.full((5, 7), 3)).tolist() == [[0, 0, 5, 7]]
    assert selective_grouping(np.zeros((1, 1, 3)), channel_axis=-1).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((4, 4, 3)), {}, r"shape \(4, 4, 3\) with channel_axis=None is not a plane"),
        (np.zeros((4, 0)), {}, r"shape \(4, 0\).*is not a plane"),
        (np.zeros((4, 4, 3)), {"channel_axis": 3}, "channel_axis=3 does not exist"),
        (np.full((4, 4), np.nan), {}, "NaN or infinite"),
        (np.zeros((4, 4)), {"scale": -1}, "scale=-1, sigma=0.8, min_size=50 are not possible"),
        (np.zeros((4, 4)), {"min_size": 0}, "min_size=0 are not possible"),
    ],
    ids=str,
)
def test_what_cannot_be_grouped(image: NDArray[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        selective_grouping(image, **options)


def test_examples_run() -> None:
    found = doctest.testmod(proposals)
    assert found.attempted
    assert not found.failed
