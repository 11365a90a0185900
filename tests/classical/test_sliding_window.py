"""A classifier at every pixel: equal to brute force, to its dense forms, and to itself in tiles."""

from __future__ import annotations

import doctest
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from napari_fcnseg import Model, as_model, predict, segment
from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Segmenter
from napari_fcnseg.classical import sliding_window
from napari_fcnseg.classical.sliding_window import SlidingWindow
from napari_fcnseg.networks.backbones.base import Classifier, Stack
from napari_fcnseg.networks.dense_conversion import as_convolution, convolutionize
from napari_fcnseg.networks.layers import CONV, MAX_POOL
from napari_fcnseg.networks.striding import atrous, shift_and_stitch
from napari_fcnseg.preprocess.normalization import Normalization

PATCH, STRIDE, CLASSES = 18, 4, 3


class Small(Classifier, Stack):
    """Looks at patches of 18 pixels, pads nothing, stride 4, and ends in a map of 3 by 3 cells."""

    window = bins = 3

    def __init__(self, ndim: int = 2, channels: int = 2) -> None:
        layers: list[nn.Module] = []
        for seen in (channels, 6):
            layers += [CONV[ndim](seen, 6, 3), nn.ReLU(), MAX_POOL[ndim](2)]
        super().__init__(layers, taps=[5], channels=[6])
        self.classifier = nn.Linear(6 * 3**ndim, CLASSES)


def small(ndim: int = 2, channels: int = 2) -> Small:
    torch.manual_seed(0)
    return Small(ndim, channels).eval()


def window(ndim: int = 2, channels: int = 2, **options: Any) -> SlidingWindow:
    return SlidingWindow(
        small(ndim, channels), (PATCH,) * ndim, in_channels=channels, classes=CLASSES, **options
    )


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def made_model(segmenter: SlidingWindow) -> Model:
    """Return a model whose engine sees the segmenter."""
    return as_model(segmenter, classes=CLASSES - 1, normalization=Normalization(method="none"))


def by_hand(image: NDArray[np.float32], patch: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the score of each pixel from its own patch of the mirrored image, one at a time."""
    widths = [(0, 0), *((size // 2, size - 1 - size // 2) for size in patch)]
    padded = torch.from_numpy(np.pad(image, widths, mode="reflect"))
    network, shape = small(len(patch), len(image)), image.shape[1:]
    scores = np.empty((CLASSES, *shape), np.float32)
    for pixel in np.ndindex(*shape):
        at = (slice(None), *(slice(i, i + size) for i, size in zip(pixel, patch, strict=True)))
        with torch.inference_mode():
            scores[(slice(None), *pixel)] = network(padded[at][None])[0].numpy()
    return scores


@pytest.mark.parametrize("shape", [(37,), (21, 26)], ids=str)
def test_each_pixel_has_the_score_of_its_patch(shape: tuple[int, ...]) -> None:
    image = noise(2, *shape).numpy()
    found = predict(
        image, made_model(window(len(shape))), channel_axis=0, raw=True, device="cpu", normalization="none",
        precision="float32",
    )  # fmt: skip
    np.testing.assert_allclose(found, by_hand(image, (PATCH,) * len(shape)), atol=1e-5)
    assert found.std() > 0.01


@pytest.mark.parametrize("tile", [(16, 16), (40, 24), (7, 64)], ids=str)
def test_tiles_equal_the_whole_image(tile: tuple[int, int]) -> None:
    image, model = noise(2, 40, 61).numpy(), made_model(window())
    options: dict[str, Any] = {"channel_axis": 0, "device": "cpu", "raw": True, "precision": "float32"}
    whole = predict(image, model, tile_shape=(64, 64), **options)
    np.testing.assert_allclose(predict(image, model, tile_shape=tile, **options), whole, atol=1e-5)
    assert segment(image, model, channel_axis=0, device="cpu", kind="classes").shape == (40, 61)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_every_fourth_pixel_is_the_dense_conversion(ndim: int) -> None:
    x = noise(2, 2, *(37, 30, 22)[:ndim])
    with torch.inference_mode():
        dense = convolutionize(small(ndim))(x)
    every = window(ndim).predict(x)
    assert every.shape[2:] == tuple(n - PATCH + 1 for n in x.shape[2:])
    at: Any = (..., *(slice(None, None, STRIDE),) * ndim)
    fourth = every[at]
    torch.testing.assert_close(fourth, dense, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_every_pixel_is_the_dense_conversion_shifted_and_stitched_or_spread() -> None:
    x, network = noise(1, 2, 45, 38), small()
    every = window().predict(x)
    torch.testing.assert_close(
        shift_and_stitch(convolutionize(network), x, STRIDE), every, atol=1e-5, rtol=1e-5
    )
    head = as_convolution(network.classifier, network.bins, 2)
    torch.testing.assert_close(atrous(nn.Sequential(network.features, head))(x), every, atol=1e-5, rtol=1e-5)


def test_only_the_box_that_is_kept_is_scored() -> None:
    seen: list[int] = []

    def counted(patches: torch.Tensor) -> torch.Tensor:
        seen.append(len(patches))
        return patches.flatten(1)[:, :2]

    segmenter = SlidingWindow(counted, (3, 4), in_channels=1, classes=2, batch_size=5)
    x = noise(2, 1, 9, 12)
    seen.clear()
    kept = segmenter.predict(x, ((1, 4), (2, 4)))
    assert seen == [5, 5, 2]
    torch.testing.assert_close(kept, segmenter.predict(x)[..., 1:4, 2:4], atol=0, rtol=0)
    # The first value of a patch is the pixel that it begins with.
    torch.testing.assert_close(kept[:, 0], x[:, 0, 1:4, 2:4], atol=0, rtol=0)


def test_the_halo_is_the_reach_of_a_patch() -> None:
    segmenter = SlidingWindow(lambda p: p.flatten(1)[:, :1], (5, 4, 1), in_channels=1, classes=1)
    assert isinstance(segmenter, Segmenter)
    assert segmenter.halo == segmenter.border == ((2, 2), (2, 1), (0, 0))
    assert (segmenter.ndim, segmenter.stride, segmenter.exact_tiling) == (3, (1, 1, 1), True)


def test_an_own_copy_in_evaluation_mode() -> None:
    network = small().train()
    network.classifier = nn.Sequential(nn.Dropout(0.9), network.classifier)  # type: ignore[assignment]
    segmenter = SlidingWindow(network, (PATCH, PATCH), in_channels=2, classes=CLASSES)
    x = noise(1, 2, 20, 20)
    before = segmenter.predict(x)
    assert network.training
    network.classifier[1].weight.data.zero_()  # type: ignore[index]
    assert torch.equal(segmenter.predict(x), before)
    assert torch.equal(pickle.loads(pickle.dumps(segmenter)).predict(x), before)


def test_other_devices_and_precisions() -> None:
    segmenter, x = window(), noise(1, 2, 20, 20)
    assert segmenter.on("cpu", torch.float32) is segmenter
    rough = segmenter.on("cpu", torch.bfloat16).predict(x)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, segmenter.predict(x))
    torch.testing.assert_close(rough, segmenter.predict(x), atol=0.02, rtol=0.05)
    function = SlidingWindow(lambda p: p.flatten(1)[:, :2], (3, 3), in_channels=1, classes=2)
    assert function.on("cuda", torch.bfloat16) is function


def as_array(patches: torch.Tensor) -> Any:
    return patches.numpy().reshape(len(patches), -1)


WRONG: list[tuple[Callable[[torch.Tensor], Any], dict[str, Any], str]] = [
    (torch.flatten, {"patch": ()}, r"patch=\(\) is not possible; give the sizes of 1 to 3 axes"),
    (torch.flatten, {"patch": (3, 3, 3, 3)}, "the sizes of 1 to 3 axes"),
    (torch.flatten, {"patch": 5}, "patch=5 is not possible; give the sizes"),
    (torch.flatten, {"patch": (3, 0)}, "patch=0 is not possible"),
    (torch.flatten, {"batch_size": 2.5}, "batch_size=2.5 is not possible"),
    (torch.flatten, {"classes": True}, "classes=True is not possible"),
    (torch.flatten, {}, r"gave \(9,\) for patches of shape \(1, 1, 3, 3\); .* a tensor of shape \(1, 2\)"),
    (lambda p: (p, p), {}, "gave tuple for patches"),
    (as_array, {"classes": 9}, "must give a tensor"),
]  # fmt: skip


@pytest.mark.parametrize(("classifier", "options", "message"), WRONG, ids=lambda v: str(v)[:40])
def test_what_is_refused(classifier: Any, options: dict[str, Any], message: str) -> None:
    given = {"patch": (3, 3), "in_channels": 1, "classes": 2, **options}
    with pytest.raises(InputError, match=message):
        SlidingWindow(classifier, given.pop("patch"), **given)


@pytest.mark.parametrize("shape", [(1, 2, 17, 30), (1, 3, 20, 20), (2, 20, 20)], ids=str)
def test_batches_without_a_patch_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="has no patch of 2 channels and 18 x 18 pixels"):
        window().predict(noise(*shape))


def test_examples_run() -> None:
    found = doctest.testmod(sliding_window)
    assert found.attempted
    assert not found.failed
