"""Each step of the format computes what its formula says; what is not supported is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bioimageio.spec.model import v0_5
from numpy.typing import NDArray
from pydantic import TypeAdapter

from napari_fcnseg._shared.errors import ModelFileError
from napari_fcnseg.models.bioimageio.processing import read_postprocessing, read_preprocessing
from napari_fcnseg.preprocess.normalization import Normalization, decide_transform

PIXELS = np.random.default_rng(0).uniform(-3, 260, (2, 30, 40)).astype(np.float32)
ONE = PIXELS[:1]
STEPS: TypeAdapter[Any] = TypeAdapter(list[v0_5.PreprocessingDescr])
AFTER: TypeAdapter[Any] = TypeAdapter(list[v0_5.PostprocessingDescr])


def step(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"id": name, "kwargs": kwargs} if kwargs else {"id": name}


def processed(steps: list[dict[str, Any]], pixels: NDArray[Any]) -> NDArray[Any]:
    """Return pixels as the engine hands them to the network."""
    channels = len(pixels)
    normalization, rest = read_preprocessing(STEPS.validate_python(steps), ["y", "x"], channels, "raw")
    transform = decide_transform(pixels.reshape(channels, -1), normalization, channels)
    offset, scale = (np.reshape(part, (-1, 1, 1)) for part in (transform.offset, transform.scale))
    found = torch.from_numpy(((pixels - offset) / scale).astype(np.float32))[None]
    for one in rest:
        found = one(found)
    return found[0].numpy()


def mean_and_deviation(axes: Any) -> Any:
    mean, deviation = PIXELS.mean(axes, keepdims=True), PIXELS.std(axes, keepdims=True)
    return (PIXELS - mean) / (deviation + 1e-6)


def percentiles(axes: Any, low: float, high: float) -> Any:
    bottom, top = np.percentile(PIXELS, (low, high), axis=axes, keepdims=True)
    return (PIXELS - bottom) / (top - bottom + 1e-6)


COLUMN = np.array([[[2.0]], [[0.5]]])
FLOAT = step("ensure_dtype", dtype="float32")
Y_X, C_Y_X = ["y", "x"], ["channel", "y", "x"]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], PIXELS),
        ([FLOAT], PIXELS),
        ([FLOAT, step("zero_mean_unit_variance", axes=Y_X), FLOAT], mean_and_deviation((1, 2))),
        ([step("zero_mean_unit_variance", axes=C_Y_X)], mean_and_deviation((0, 1, 2))),
        ([step("zero_mean_unit_variance")], mean_and_deviation((0, 1, 2))),
        ([step("scale_range", axes=Y_X, min_percentile=2, max_percentile=97)], percentiles((1, 2), 2, 97)),
        ([step("scale_range", axes=["batch", *C_Y_X])], percentiles((0, 1, 2), 0, 100)),
        ([step("scale_linear", gain=0.5, offset=3)], PIXELS * 0.5 + 3),
        ([step("scale_linear", axis="channel", gain=[2, 0.5], offset=[1, 2])],
         PIXELS * COLUMN + [[[1]], [[2]]]),
        ([step("fixed_zero_mean_unit_variance", mean=100, std=50)], (PIXELS - 100) / 50),
        (
            [step("fixed_zero_mean_unit_variance", axis="channel", mean=[7, 9], std=[2, 0.5])],
            (PIXELS - [[[7]], [[9]]]) / COLUMN,
        ),
        ([step("clip", min=0, max=200)], PIXELS.clip(0, 200)),
        ([step("clip", max=200)], PIXELS.clip(max=200)),
        ([step("binarize", threshold=90)], PIXELS > 90),
        ([step("binarize", axis="channel", threshold=[90, 10])], PIXELS > [[[90]], [[10]]]),
        ([step("ensure_dtype", dtype="int16")], np.trunc(PIXELS)),
        ([step("ensure_dtype", dtype="bool")], PIXELS > 0),
        ([step("scale_linear", gain=1 / 255, offset=4), step("zero_mean_unit_variance", axes=Y_X)],
         mean_and_deviation((1, 2))),
        ([step("zero_mean_unit_variance", axes=Y_X), step("clip", min=-1, max=1),
          step("scale_linear", gain=2)],
         2 * mean_and_deviation((1, 2)).clip(-1, 1)),
    ],
)  # fmt: skip
def test_preprocessing(steps: list[dict[str, Any]], expected: NDArray[Any]) -> None:
    found = processed(steps, PIXELS.clip(0) if "bool" in str(steps) else PIXELS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_eps_is_that_of_the_scaled_image() -> None:
    faint = ONE * 1e-6
    eps = {"axes": Y_X, "eps": 1e-3}
    found = processed([step("scale_linear", gain=4), step("zero_mean_unit_variance", **eps)], faint)
    expected = (4 * faint - 4 * faint.mean()) / (4 * faint.std() + 1e-3)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([step("sigmoid")], 1 / (1 + np.exp(-PIXELS.astype(np.float64)))),
        ([step("softmax", axis="channel"), FLOAT], None),
        (
            [step("scale_linear", gain=0.1, offset=1), step("clip", min=0, max=1)],
            (PIXELS * 0.1 + 1).clip(0, 1),
        ),
        ([step("binarize", threshold=0.5)], PIXELS > 0.5),
    ],
)
def test_postprocessing(steps: list[dict[str, Any]], expected: Any) -> None:
    found = torch.from_numpy(PIXELS)[None]
    for one in read_postprocessing(AFTER.validate_python(steps), 2):
        found = one(found)
    if expected is None:
        powers = np.exp(PIXELS - PIXELS.max(0))
        expected = powers / powers.sum(0)
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([step("zero_mean_unit_variance", axes=["x"])], "over the axes x alone"),
        ([step("scale_range", axes=Y_X, reference_tensor="other")], r"by another tensor \(other\)"),
        ([step("clip", min=0, max=1), step("scale_range", axes=Y_X)], "scale_range after clip"),
        (
            [step("scale_linear", gain=-1, offset=255), step("scale_range", axes=Y_X)],
            "scale_range after scale_linear",
        ),
        ([step("scale_range", axes=Y_X), step("zero_mean_unit_variance", axes=Y_X)], "one of them"),
        ([step("clip", min_percentile=1, max_percentile=99, axes=Y_X)], "clip by percentiles"),
        ([step("softmax", axis="x")], "softmax along the axis x"),
        ([step("scale_linear", axis="channel", gain=[1, 2, 3], offset=[0, 0, 0])], "3 values for gain"),
        ([step("scale_linear", axis="y", gain=[1, 2], offset=[0, 0])], "along the axis y"),
    ],
)
def test_what_is_not_supported_before(steps: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_preprocessing(STEPS.validate_python(steps), ["y", "x"], 2, "raw")


FLOWS = {"cellprob_threshold": 0.0, "flow_threshold": 0.4, "do_3D": False}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([step("scale_range", axes=Y_X)], "'scale_range' looks at the whole image"),
        (
            [step("scale_mean_variance", reference_tensor="raw")],
            "'scale_mean_variance' is not supported; supported",
        ),
        ([{"id": "cellpose_flow_dynamics", "kwargs": FLOWS}], "'cellpose_flow_dynamics' is not supported"),
    ],
)
def test_what_is_not_supported_after(steps: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_postprocessing(AFTER.validate_python(steps), 2)


def test_what_statistics_become() -> None:
    steps = STEPS.validate_python(
        [step("scale_range", axes=Y_X, min_percentile=1, max_percentile=99, eps=0.01)]
    )
    assert read_preprocessing(steps, ["y", "x"], 1, "raw") == (
        Normalization("percentile", 1.0, 99.0, eps=0.01),
        (),
    )
