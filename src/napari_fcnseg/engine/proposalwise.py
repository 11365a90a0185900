"""Prediction object by object: boxes that may hold one are predicted each at one size, then put together.

References
----------
.. [1] H. Noh, S. Hong, B. Han, "Learning Deconvolution Network for Semantic
       Segmentation", ICCV 2015, arXiv:1505.04366, sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import softmax

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box, Segmenter
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine.job import Job, make_job
from napari_fcnseg.engine.run import decide_now
from napari_fcnseg.models.model import Model
from napari_fcnseg.models.registry import load_model
from napari_fcnseg.networks.anysize import mirrored
from napari_fcnseg.networks.layers import LINEAR_MODE
from napari_fcnseg.refine.option_checks import check_choice, check_count
from napari_fcnseg.refine.proposals import selective_grouping
from napari_fcnseg.refine.stitching import slices
from napari_fcnseg.tiling.plan import round_up

Proposals = Callable[[NDArray[Any]], Any]
"""Takes pixels ``(*image, channels)``, returns boxes ``(n, 2 * ndim)``, best first."""


def predict_proposals(
    image: Any,
    model: str | Path | Model,
    *,
    channel_axis: int | None = None,
    proposals: Proposals | None = None,
    window: int = 224,
    shortest: int | None = None,
    limit: int = 50,
    aggregate: str = "max",
    device: str | None = None,
    precision: str = "auto",
) -> NDArray[np.float32]:
    """Predict every proposed box at one size, and put the scores together.

    Large objects are seen whole and small ones magnified, which a network
    with a fixed field of view does not do [1]_. The image is normalised once, as a
    whole; each box is cut out, brought to `window` pixels whatever its shape,
    predicted, and its scores brought back.

    Parameters
    ----------
    image : array
        The axes of the model and, if it takes several channels, `channel_axis`.
    model : str, Path, Model
        As for :func:`napari_fcnseg.segment`.
    channel_axis : int, optional
        The axis of the channels or colours.
    proposals : callable, optional
        Takes the pixels, shape ``(*image, channels)``, and returns boxes, best
        first, as integers of shape (n, 2 * ndim): the first corner of each and,
        half-open, the last, such as ``(y0, x0, y1, x1)``.
        :func:`~napari_fcnseg.refine.proposals.selective_grouping` by default, which is for planes.
    window : int
        Side of what the network sees, in pixels.
    shortest : int, optional
        Boxes with a shorter side are left out; half of `window` by default,
        as in the authors' code.
    limit : int
        How many boxes are predicted, at most.
    aggregate : {"max", "sum"}
        What becomes of scores where boxes overlap ([1]_, equations 1 and 2).
        Outside of all boxes they are 0, and with ``"max"`` nowhere less, as
        in the authors' code.
    device, precision
        As for :func:`napari_fcnseg.segment`.

    Returns
    -------
    ndarray of float32, shape (maps, *image)
        Scores before softmax, one map for each output of the model. Without
        any box the image itself is the only one.

    Raises
    ------
    InputError
        For an option out of range, or boxes that do not fit the image.
    FcnsegError
        As for :func:`napari_fcnseg.segment`.

    See Also
    --------
    ensemble : Join these scores with those of another network.

    Examples
    --------
    >>> from skimage.data import coins
    >>> predict_proposals(coins()[:96, :128], "nuclei", window=64, limit=3, device="cpu").shape
    (4, 96, 128)
    """
    _check_options(window, shortest, limit, aggregate)
    job = _job(image, load_model(model), channel_axis, window, device, precision)
    everything: Box = tuple((0, length) for length in job.source.shape)
    predictor = job.predictor(decide_now(job))
    found = _boxes(job.source.read((), everything), proposals or _grouped)
    boxes = [box for box in found if min(b - a for a, b in box) >= (shortest or window // 2)]
    pixels = predictor.normalised(predictor.read(job.source, (), everything)[None])
    total = torch.zeros((1, job.model.segmenter.out_channels, *job.source.shape), device=pixels.device)
    for box in boxes[:limit] or [everything]:
        there: Any = (..., *slices(box))
        scores = _box_scores(predictor.segmenter, pixels[there], window)
        total[there] = torch.maximum(total[there], scores) if aggregate == "max" else total[there] + scores
    return total[0].cpu().numpy()


def _check_options(window: int, shortest: int | None, limit: int, aggregate: str) -> None:
    counts = {"window": window, "limit": limit} | ({} if shortest is None else {"shortest": shortest})
    for name, value in counts.items():
        check_count(name, value, least=1)
    check_choice("aggregate", aggregate, ("max", "sum"))


def _job(
    image: Any, model: Model, channel_axis: int | None, window: int, device: str | None, precision: str
) -> Job:
    settings = SegmentSettings(
        model=model.record.id, channel_axis=channel_axis, device=device, precision=precision,
        tile_shape=(window,) * model.record.ndim,
    )  # fmt: skip
    return make_job(np.asarray(image), model, settings)


def _grouped(pixels: NDArray[Any]) -> NDArray[np.intp]:
    return selective_grouping(pixels, channel_axis=-1)


def _boxes(pixels: NDArray[Any], proposals: Proposals) -> list[Box]:
    """Return the proposed boxes of an image, channels first."""
    shape = pixels.shape[1:]
    boxes = np.asarray(proposals(np.moveaxis(pixels, 0, -1)))
    if boxes.size == 0:
        return []
    if boxes.ndim != 2 or boxes.shape[1] != 2 * len(shape) or boxes.dtype.kind not in "iu":
        raise InputError(
            f"proposals gave {boxes.dtype} of shape {boxes.shape}; boxes are whole numbers of shape "
            f"(n, {2 * len(shape)}), first corners and last corners."
        )
    first, last = np.split(boxes.astype(np.int64), 2, axis=1)
    if (first < 0).any() or (last > shape).any() or (first >= last).any():
        raise InputError(f"proposals gave a box that is empty or reaches beyond the image of shape {shape}.")
    sides = np.stack([first, last], axis=-1).tolist()
    return [tuple((a, b) for a, b in box) for box in sides]


def _resized(maps: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Interpolate linearly; what becomes smaller is smoothed first, where torch can."""
    ndim = maps.ndim - 2
    return F.interpolate(maps, tuple(shape), mode=LINEAR_MODE[ndim], align_corners=False, antialias=ndim == 2)


def _box_scores(segmenter: Segmenter, pixels: torch.Tensor, window: int) -> torch.Tensor:
    """Return scores of a cut-out, by way of a window, mirrored to what the network takes."""
    ndim = pixels.ndim - 2
    x = _resized(pixels, (window,) * ndim)
    sides = zip(segmenter.stride, segmenter.border, strict=True)
    for axis, (step, (before, after)) in enumerate(sides, start=2):
        x = mirrored(x, axis, before, round_up(window, step) - window + after)
    return _resized(segmenter.predict(x, ((0, window),) * ndim), pixels.shape[2:])


def ensemble(one: Any, other: Any, *, method: str = "mean") -> NDArray[np.float32]:
    """Join the scores of two networks, such as proposal-wise DeconvNet and FCN-8s.

    Parameters
    ----------
    one, other : array, shape (classes, *image)
        Scores before softmax, from :func:`predict_proposals` or from
        ``napari_fcnseg.predict(..., raw=True)``.
    method : {"mean", "product"}
        ``"mean"`` of both class probabilities, as the paper says ([1]_,
        section 5.1). ``"product"`` of both scores, negative ones taken as 0,
        then softmax, as the authors' code does.

    Returns
    -------
    ndarray of float32, shape (classes, *image)
        Probabilities, which add up to 1.

    Raises
    ------
    InputError
        If the shapes differ or the method is not known.

    Examples
    --------
    >>> scores = np.array([[2.0], [-1.0]])
    >>> ensemble(scores, scores, method="product").round(3)
    array([[0.982],
           [0.018]], dtype=float32)
    """
    check_choice("method", method, ("mean", "product"))
    a, b = np.asarray(one, np.float32), np.asarray(other, np.float32)
    if a.shape != b.shape:
        raise InputError(
            f"scores of shapes {a.shape} and {b.shape} cannot be joined; both networks must give the same "
            "classes for the same image."
        )
    if method == "product":
        return np.asarray(softmax(np.maximum(a, 0) * np.maximum(b, 0), axis=0))
    return np.asarray((softmax(a, axis=0) + softmax(b, axis=0)) / 2)
