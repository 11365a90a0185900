"""Prediction at several scales: what each gives, how they are joined, and what it is good for."""

from __future__ import annotations

import doctest
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.engine.small import cells, grouped, seeded, texture, tissues, unpadded, volume
from torch import nn

from napari_fcnseg import Model, as_model, predict
from napari_fcnseg._shared.errors import AxesError, InputError
from napari_fcnseg.engine import multiscale
from napari_fcnseg.engine.multiscale import predict_scales
from napari_fcnseg.preprocess.resampling import Resampling


def on_cpu(image: Any, model: Model, **options: Any) -> NDArray[np.float32]:
    return predict_scales(image, model, device="cpu", **options)


def resampled(maps: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    return Resampling(maps.shape[-len(shape) :], shape).apply(maps, tuple((0, n) for n in shape))


def test_one_scale_is_a_plain_prediction() -> None:
    image = texture(2, 30, 41)
    plain = predict(image, tissues(), channel_axis=0, device="cpu")
    found = on_cpu(image, tissues(), channel_axis=0, scales=[1])
    np.testing.assert_allclose(found, plain, atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("aggregate", ["mean", "max"])
@pytest.mark.parametrize(
    ("model", "shape"), [(cells, (37, 50)), (unpadded, (40, 33)), (volume, (12, 14, 17))]
)
def test_scales_are_predictions_of_resampled_images(model: Any, shape: Any, aggregate: str) -> None:
    image, scales = texture(*shape), (0.5, 1, 1.7)
    maps = []
    for scale in scales:
        grid = tuple(max(1, round(n * scale)) for n in shape)
        part = predict(resampled(image, grid), model(), device="cpu", normalization="none")
        maps.append(resampled(part, shape))
    expected = np.mean(maps, axis=0)
    if aggregate == "max":
        expected = np.max(maps, axis=0)
        expected[0] = np.min(maps, axis=0)[0]
    expected = expected / expected.sum(axis=0)
    found = on_cpu(image, model(), scales=scales, aggregate=aggregate, normalization="none")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    assert np.abs(maps[0] - maps[2]).max() > 0.05


def test_tiles_do_not_matter() -> None:
    image = texture(50, 61)
    whole = on_cpu(image, cells(), tile_shape=(256, 256))
    np.testing.assert_allclose(on_cpu(image, cells(), tile_shape=(16, 24)), whole, atol=1e-5)


def test_pixels_are_normalised_alike_at_every_scale() -> None:
    """A convolution of one pixel shows the normalised image itself."""
    convolution = nn.Conv2d(1, 2, 1)
    convolution.weight.data = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    convolution.bias.data.zero_()  # type: ignore[union-attr]
    model = as_model(convolution, classes=["thing"])
    image = np.zeros((64, 64), np.float32)
    image[:32] = 10
    # Noise that is reduced has other percentiles, so a normalisation of its own would shift each scale.
    image += np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
    coarse, fine = (on_cpu(image, model, scales=[scale])[1] for scale in (0.25, 1))
    assert abs(float(coarse[8:24].mean() - fine[8:24].mean())) < 0.01
    assert abs(float(coarse[40:56].mean() - fine[40:56].mean())) < 0.01


def test_windows_of_a_model_that_cannot_be_tiled() -> None:
    image = texture(40, 48)
    found = on_cpu(image, grouped(), scales=(0.5, 1.5))
    assert found.shape == (2, 40, 48)
    assert found.std() > 0.01


def test_scales_are_on_top_of_the_diameter() -> None:
    image = texture(32, 40)
    # The card says 10 pixels: these of 5 are doubled, then halved again.
    found = on_cpu(image, seeded(), diameter=5, scales=[0.5])
    np.testing.assert_allclose(found, predict(image, seeded(), device="cpu"), atol=1e-6)


def test_stacks_masks_and_lazy_images() -> None:
    stack = texture(3, 30, 33)
    found = on_cpu(stack, cells(), axes="tyx", scales=(0.5, 1))
    assert found.shape == (2, 3, 30, 33)
    turned = on_cpu(np.moveaxis(stack, 0, -1), cells(), axes="yxt", scales=(0.5, 1))
    np.testing.assert_allclose(np.moveaxis(turned, -1, 1), found, atol=1e-6)
    chunked = da.from_array(stack, chunks=(1, 16, 16))  # type: ignore[no-untyped-call]
    lazy = on_cpu(chunked, cells(), axes="tyx", scales=(0.5, 1))
    assert isinstance(lazy, np.ndarray)
    np.testing.assert_allclose(lazy, found, atol=1e-5)
    mask = np.ones((30, 33), bool)
    mask[:5] = False
    holes = stack[0].copy()
    holes[:5] = np.nan
    assert np.isfinite(on_cpu(holes, cells(), mask=mask, scales=(0.5, 1))).all()


def test_nothing_is_found_in_a_constant_image() -> None:
    found = on_cpu(np.full((20, 20), 7.0), cells())
    assert (found[0] == 1).all()
    assert not found[1:].any()


def test_progress_of_each_scale() -> None:
    seen: list[tuple[int, int]] = []
    on_cpu(
        texture(64, 64), cells(), scales=(0.5, 1), tile_shape=(32, 64), progress=lambda *at: seen.append(at)
    )
    assert seen == [(1, 1), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, r"scales=\(\) is not possible; give one or more factors from 1/16 to 16"),
        ({"scales": 2}, "scales=2 is not possible"),
        ({"scales": (1, 0)}, "is not possible"),
        ({"scales": (1, float("nan"))}, "is not possible"),
        ({"scales": (17,)}, "is not possible"),
        ({"scales": "half"}, "scales='half' is not possible"),
        ({"aggregate": "maximum"}, "aggregate='maximum' is not known; allowed are 'mean', 'max'"),
        ({"tile_shap": (32, 32)}, r"no option 'tile_shap'; it takes .* Did you mean 'tile_shape'"),
        ({"refine": "crf"}, "no option 'refine'"),
    ],
    ids=str,
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        on_cpu(texture(16, 20), cells(), **options)


def test_images_of_other_axes_are_refused() -> None:
    with pytest.raises(AxesError, match="3 dimensions"):
        on_cpu(texture(3, 16, 20), cells())


def test_examples_run() -> None:
    found = doctest.testmod(multiscale)
    assert found.attempted
    assert not found.failed
