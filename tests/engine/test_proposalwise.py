"""Boxes are cut out, predicted at one size and put back; two networks' scores are joined."""

from __future__ import annotations

import doctest
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.engine.small import texture, tissues, unpadded
from torch import nn

from napari_fcnseg import Model, as_model, predict
from napari_fcnseg._shared.errors import AxesError, InputError, ModelError
from napari_fcnseg.engine import proposalwise
from napari_fcnseg.engine.proposalwise import ensemble, predict_proposals
from napari_fcnseg.networks import build_network
from napari_fcnseg.refine.proposals import selective_grouping


def pointwise(weight: float = 1.0, bias: float = 0.0, ndim: int = 2) -> Model:
    """Return a model whose second map is weight * image + bias, and whose first is minus that."""
    convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[ndim](1, 2, 1)
    convolution.weight.data = torch.tensor([-weight, weight]).reshape(2, 1, *[1] * ndim)
    convolution.bias.data = torch.tensor([-bias, bias])  # type: ignore[union-attr]
    return as_model(convolution, classes=["thing"], normalization="none")


def given(*boxes: Sequence[int]) -> Callable[[NDArray[Any]], NDArray[np.int64]]:
    return lambda _: np.array(boxes, np.int64)


def on_cpu(image: Any, model: Model, **options: Any) -> NDArray[np.float32]:
    return predict_proposals(image, model, **{"device": "cpu", "precision": "float32", **options})


def test_the_whole_image_at_its_own_size_is_a_plain_prediction() -> None:
    image = texture(2, 32, 32)
    plain = predict(image, tissues(), channel_axis=0, raw=True, device="cpu", precision="float32")
    found = on_cpu(
        image, tissues(), channel_axis=0, window=32, proposals=given((0, 0, 32, 32)), aggregate="sum"
    )
    np.testing.assert_allclose(found, plain, atol=1e-5)


def test_a_network_that_loses_its_border_sees_the_mirror_image() -> None:
    image = texture(20, 20)
    plain = predict(image, unpadded(), raw=True, device="cpu", precision="float32")
    found = on_cpu(image, unpadded(), window=20, proposals=given((0, 0, 20, 20)), aggregate="sum")
    np.testing.assert_allclose(found, plain, atol=1e-5)


def test_overlapping_boxes_by_maximum_and_by_sum() -> None:
    image = np.zeros((24, 24), np.float32)
    image[:8], image[8:16], image[16:] = 1, 2, -3
    boxes = given((0, 0, 16, 16), (8, 8, 24, 24))
    highest = on_cpu(image, pointwise(bias=1.0), window=16, proposals=boxes)
    total = on_cpu(image, pointwise(bias=1.0), window=16, proposals=boxes, aggregate="sum")
    seen = np.zeros_like(image)
    seen[:16, :16] += 1
    seen[8:, 8:] += 1
    np.testing.assert_allclose(total[1], (image + 1) * seen)
    np.testing.assert_allclose(total[0], -(image + 1) * seen)
    np.testing.assert_allclose(highest[1], np.maximum(image + 1, 0) * (seen > 0))
    np.testing.assert_allclose(highest[0], np.maximum(-image - 1, 0) * (seen > 0))


class _WholeMean(nn.Module):
    """Adds the mean of what it sees, so that scores depend on the box."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.conv.weight.data = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
        self.conv.bias.data.zero_()  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.conv(x + x.mean((2, 3), keepdim=True))
        return scores


def test_the_maximum_is_taken_pixel_by_pixel() -> None:
    image = np.zeros((8, 12), np.float32)
    image[:, :4], image[:, 4:8], image[:, 8:] = 1, 2, 9
    model = as_model(_WholeMean(), classes=["thing"], normalization="none")
    found = on_cpu(image, model, window=8, proposals=given((0, 0, 8, 8), (0, 4, 8, 12)), shortest=1)[1]
    first, second = image + 1.5, image + 5.5
    np.testing.assert_allclose(found[:, :4], first[:, :4])
    np.testing.assert_allclose(found[:, 4:], second[:, 4:])


def test_boxes_are_interpolated_to_the_window_and_back() -> None:
    """A box smaller than the window, against linear interpolation at pixel centres along each axis."""
    image = texture(30, 30) + 1

    def resized(values: NDArray[Any], n: int) -> NDArray[Any]:
        for axis in (0, 1):
            m = values.shape[axis]
            at = (np.arange(n) + 0.5) * m / n - 0.5
            values = np.apply_along_axis(
                lambda line, at=at, m=m: np.interp(at, np.arange(m), line), axis, values
            )
        return values

    found = on_cpu(image, pointwise(), window=20, proposals=given((3, 5, 13, 15)))[1]
    # Back to 10 pixels each is the mean of two neighbours of 20, with half as much of the next beyond.
    large = np.pad(resized(image[3:13, 5:15], 20), 1, mode="constant", constant_values=np.nan)
    weights = np.array([1, 3, 3, 1])
    blocks = np.lib.stride_tricks.sliding_window_view(large, (4, 4))[::2, ::2]
    share = weights[:, None] * weights * np.isfinite(blocks)
    expected = np.nansum(blocks * share, axis=(2, 3)) / share.sum(axis=(2, 3))
    np.testing.assert_allclose(found[3:13, 5:15], expected, rtol=1e-5)
    found[3:13, 5:15] = 0
    assert not found.any()


def test_boxes_that_are_small_or_too_many_are_left_out() -> None:
    image = np.ones((40, 40), np.float32)
    boxes = given((0, 0, 7, 40), (0, 0, 8, 8), (8, 0, 16, 40), (16, 0, 40, 40))
    seen = on_cpu(image, pointwise(), window=16, proposals=boxes, limit=2)[1]
    assert not seen[:8, 8:].any()  # its shorter side is below half of the window
    assert seen[:8, :8].all()
    assert seen[8:16].all()
    assert not seen[16:].any()
    assert on_cpu(image, pointwise(), window=16, proposals=boxes, shortest=7, limit=1)[1, :7].all()


@pytest.mark.parametrize("boxes", [(), ((0, 0, 4, 4),)], ids=["none", "all too small"])
def test_without_a_box_the_image_is_the_only_one(boxes: Any) -> None:
    image = texture(12, 20) + 1
    found = on_cpu(image, pointwise(), window=16, proposals=given(*boxes))
    assert np.array_equal(found, on_cpu(image, pointwise(), window=16, proposals=given((0, 0, 12, 20))))
    assert found[1].all()


def test_proposals_are_grouped_superpixels_unless_another_source_is_given() -> None:
    image = texture(2, 60, 70, smooth=4)
    grouped = on_cpu(image, tissues(), channel_axis=0, window=32)
    asked: list[NDArray[Any]] = []

    def source(pixels: NDArray[Any]) -> NDArray[np.intp]:
        asked.append(pixels)
        return selective_grouping(pixels, channel_axis=-1)

    assert np.array_equal(on_cpu(image, tissues(), channel_axis=0, window=32, proposals=source), grouped)
    np.testing.assert_array_equal(asked[0], np.moveaxis(image, 0, -1))
    only = on_cpu(image, tissues(), channel_axis=0, window=32, proposals=given((0, 0, 60, 70)))
    assert not np.array_equal(only, grouped)


def test_deconvnet_sees_each_box_at_its_size() -> None:
    torch.manual_seed(0)
    network = build_network("deconvnet", in_channels=1, classes=3, width=1 / 8, depth=2, norm="none")
    sizes: list[tuple[int, ...]] = []
    network.get_submodule("encoder.0").register_forward_hook(
        lambda _, args, __: sizes.append(tuple(args[0].shape[2:]))
    )
    model = as_model(network, classes=2)
    sizes.clear()
    found = on_cpu(texture(40, 50), model, window=28, proposals=given((0, 0, 40, 50), (4, 4, 24, 40)))
    assert sizes == [(28, 28), (28, 28)]
    assert found.shape == (3, 40, 50)
    assert found.any()


@pytest.mark.parametrize("ndim", [1, 3])
def test_other_numbers_of_axes(ndim: int) -> None:
    image = np.ones((12, 10, 11)[:ndim], np.float32)
    box = [2, 3, 4][:ndim] + [9, 8, 10][:ndim]
    found = on_cpu(image, pointwise(2.0, ndim=ndim), window=6, proposals=given(box))[1]
    expected = np.zeros_like(image)
    expected[tuple(slice(a, b) for a, b in zip(box[:ndim], box[ndim:], strict=True))] = 2
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window=0 is not possible"),
        ({"limit": 2.5}, "limit=2.5 is not possible"),
        ({"shortest": True}, "shortest=True is not possible"),
        ({"aggregate": "men"}, "aggregate='men' is not known; give one of 'max', 'sum'"),
        ({"proposals": given((0, 0, 9, 30))}, r"empty or reaches beyond the image of shape \(16, 20\)"),
        ({"proposals": given((4, 4, 4, 8))}, "empty or reaches beyond"),
        ({"proposals": given((0, 4, 8))}, r"shape \(1, 3\); boxes are whole numbers of shape \(n, 4\)"),
        ({"proposals": lambda _: [[0.0, 0.0, 8.5, 8.0]]}, "gave float64 of shape"),
    ],
    ids=str,
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        on_cpu(texture(16, 20), pointwise(), **options)


def test_stacks_and_bare_networks_are_refused() -> None:
    with pytest.raises(AxesError, match="3 dimensions"):
        on_cpu(texture(3, 16, 20), pointwise())
    with pytest.raises(ModelError, match="as_model"):
        on_cpu(texture(16, 20), nn.Conv2d(1, 2, 1))  # type: ignore[arg-type]


def softmax(scores: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(scores)
    return np.asarray(powers / powers.sum(axis=0))


def test_both_ways_to_join_two_networks() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    np.testing.assert_allclose(ensemble(a, b), (softmax(a) + softmax(b)) / 2, rtol=1e-5)
    product = ensemble(a, b, method="product")
    np.testing.assert_allclose(product, softmax(a.clip(0) * b.clip(0)), rtol=1e-5)
    # Two negative scores are not one positive score.
    assert not np.allclose(product, softmax(a * b))
    assert product.dtype == ensemble(a, b).dtype == np.float32
    np.testing.assert_allclose(product.sum(axis=0), 1, rtol=1e-5)


def test_scores_that_cannot_be_joined() -> None:
    with pytest.raises(InputError, match=r"shapes \(2, 3, 3\) and \(3, 3, 3\)"):
        ensemble(np.zeros((2, 3, 3)), np.zeros((3, 3, 3)))
    with pytest.raises(InputError, match="method='sum' is not known; give one of 'mean', 'product'"):
        ensemble(np.zeros((2, 3, 3)), np.zeros((2, 3, 3)), method="sum")


def test_examples_run() -> None:
    found = doctest.testmod(proposalwise)
    assert found.attempted
    assert not found.failed
