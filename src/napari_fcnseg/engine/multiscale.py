"""Prediction at several magnifications, against a field of view of one size.

A network sees objects of the size it was trained on. What is larger than its
field of view falls into pieces, what is smaller is lost [1]_. Reduced, the first
has the right size; magnified, the second.

References
----------
.. [1] H. Noh, S. Hong, B. Han, "Learning Deconvolution Network for Semantic
       Segmentation", ICCV 2015, arXiv:1505.04366, section 1 and figure 1.
.. [2] L.-C. Chen et al., "DeepLab", IEEE TPAMI 40, 2018, arXiv:1606.00915: scores
       joined by the maximum over scales, the background's too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.control import Progress
from napari_fcnseg._shared.errors import InputError, nearest_name
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine import lazy
from napari_fcnseg.engine.job import Job, make_job, tile_of
from napari_fcnseg.engine.run import run_scores
from napari_fcnseg.engine.scaling import LARGEST_FACTOR
from napari_fcnseg.models.model import Model
from napari_fcnseg.models.registry import load_model
from napari_fcnseg.preprocess.normalization import Normalization
from napari_fcnseg.preprocess.resampling import Resampling, scaled_shape

AGGREGATES = ("mean", "max")
OPTIONS = (
    "axes", "channel_axis", "channel", "spacing", "diameter", "mask", "normalization", "tile_shape",
    "batch_size", "memory", "device", "precision", "blend", "tta",
)  # fmt: skip


def predict_scales(
    image: Any,
    model: str | Path | Model,
    *,
    scales: Sequence[float] = (0.5, 1.0, 2.0),
    aggregate: str = "mean",
    progress: Progress | None = None,
    **options: Any,
) -> NDArray[np.float32]:
    """Predict an image at several magnifications, and put the probabilities together.

    The image is normalised alike at every scale. Each magnification goes
    through the engine in tiles, and its probabilities are brought back to the
    pixels of the image.

    Parameters
    ----------
    image : array
        As for :func:`napari_fcnseg.predict`; lazy images are read tile by tile.
    model : str, Path, Model
        As for :func:`napari_fcnseg.segment`.
    scales : sequence of float
        Magnifications, from 1/16 to 16; 0.5 halves the sides of the image.
    aggregate : {"mean", "max"}
        The mean over the scales of each probability; or the largest of each
        class and the smallest of the background, divided by their sum. With
        the mean, most scales have to see an object; with the maximum one is
        enough, also one that is mistaken.
    progress : callable, optional
        Called with ``(done, total)`` after each tile; the count begins anew at
        every scale. What it raises ends the run.
    **options
        As for :func:`napari_fcnseg.predict`: `axes`, `channel_axis`, `channel`,
        `spacing`, `diameter`, `mask`, `normalization`, `tile_shape`,
        `batch_size`, `memory`, `device`, `precision`, `blend`, `tta`. Where `spacing`
        or `diameter` rescales the image, the scales are factors on top of that.

    Returns
    -------
    ndarray of float32, shape (classes, *image without channels)
        Background first; the sum over the classes is 1.

    Raises
    ------
    InputError
        For scales or an option out of range.
    FcnsegError
        As for :func:`napari_fcnseg.predict`.

    See Also
    --------
    napari_fcnseg.engine.proposalwise.predict_proposals : Each object at the
        size that fits it; better when sizes range widely and objects stand alone.

    Notes
    -----
    Source: [1]_ in the module for the fixed field of view, [2]_ for the
    maximum, which here leaves to the background what no scale takes for an object.

    Examples
    --------
    >>> from skimage.data import coins
    >>> predict_scales(coins()[:96, :128], "nuclei", scales=(0.5, 1), device="cpu").shape
    (2, 96, 128)
    """
    factors = _checked_scales(scales)
    _check_options(options)
    if aggregate not in AGGREGATES:
        raise InputError(
            f"aggregate={aggregate!r} is not known; allowed are {', '.join(map(repr, AGGREGATES))}."
            f"{nearest_name(str(aggregate), AGGREGATES)}"
        )
    job = _job(image, load_model(model), options)
    total = run_scores(_scaled(job, factors[0]), progress)
    for factor in factors[1:]:
        _join(total, run_scores(_scaled(job, factor), progress), aggregate)
    found: NDArray[np.float32] = job.source.layout.image_order(total / total.sum(axis=0), maps=1)
    return found


def _join(total: NDArray[np.float32], scores: NDArray[np.float32], aggregate: str) -> None:
    """Take the probabilities of one more scale into `total`."""
    if aggregate == "mean":
        total += scores
        return
    np.maximum(total[1:], scores[1:], out=total[1:])
    # Were it the largest, the scale that misses an object would be as sure as the one that sees it.
    np.minimum(total[0], scores[0], out=total[0])


def _checked_scales(scales: Any) -> tuple[float, ...]:
    """Return the scales as numbers, or say what is wrong with them."""
    try:
        factors = tuple(float(scale) for scale in scales)
    except (TypeError, ValueError):
        factors = ()
    if not factors or not all(1 / LARGEST_FACTOR <= factor <= LARGEST_FACTOR for factor in factors):
        raise InputError(
            f"scales={scales!r} is not possible; give one or more factors from 1/{LARGEST_FACTOR} to "
            f"{LARGEST_FACTOR}, such as (0.5, 1, 2)."
        )
    return factors


def _check_options(options: dict[str, Any]) -> None:
    for option in options:
        if option not in OPTIONS:
            raise InputError(
                f"predict_scales has no option {option!r}; it takes {', '.join(OPTIONS)}."
                f"{nearest_name(option, OPTIONS)}"
            )


def _job(image: Any, model: Model, options: dict[str, Any]) -> Job:
    """Return what is to be done at scale 1."""
    mask, normalization = options.pop("mask", None), options.get("normalization")
    if isinstance(mask, str):
        raise InputError(
            f"mask={mask!r} is for labels, and these are probabilities of every pixel; give an array."
        )
    if isinstance(normalization, Normalization):
        options = {**options, "normalization": asdict(normalization)}
    settings = SegmentSettings(model=model.record.id, **options)
    mask = None if mask is None else np.asarray(mask)
    if lazy.is_lazy(image):
        return make_job(image, model, settings, mask, lazy.as_dask)
    return make_job(np.asarray(image), model, settings, mask)


def _scaled(job: Job, factor: float) -> Job:
    """Return the same for another grid of pixels, made from the finest there are."""
    source = job.labelled
    grid = scaled_shape(job.grid, (factor,) * len(job.grid))
    return replace(
        job,
        source=source,
        original=None,
        resampling=Resampling(source.shape, grid) if grid != source.shape else None,
        tile_shape=tile_of(job.model, job.settings, source, grid),
    )
