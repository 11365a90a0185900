"""Find the tissue on a low level of a slide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 2048

# What is thinner than this against the background is none: glass, dust out of focus, noise.
_FAINTEST = 0.05
# What absorbs more than this is tissue, even where Otsu would split the tissue itself
# because there is no background; the value of Macenko et al. for transparent pixels.
_SURE = 0.15
_SMOOTHING = 1.5
# Specks and holes below this part of the picture are not worth a decision.
_SMALL = 1e-4


def choose_low_level(levels: Sequence[Sequence[int]], largest: int = LARGEST) -> int:
    """Return the finest level whose sides are at most `largest` pixels, else the coarsest.

    Parameters
    ----------
    levels : sequence of sequence of int
        Spatial shapes, the finest first.
    largest : int, optional
        Default: 2048, which is quick, and fine enough for the outline of tissue.

    Examples
    --------
    >>> choose_low_level([(40_000, 30_000), (10_000, 7_500), (2_000, 1_500), (500, 375)])
    2
    """
    fitting = (i for i, shape in enumerate(levels) if max(shape) <= largest)
    return next(fitting, len(levels) - 1)


def tissue_mask(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where tissue is.

    Parameters
    ----------
    pixels : array of numbers, shape (y, x) or (y, x, samples)
        A low level of a slide: grey, or red, green and blue (a fourth sample
        is not looked at). The background may be bright or dark.

    Returns
    -------
    array of bool, shape (y, x)
        All False where nothing stands out from the background. The same
        pixels always give the same mask.

    Notes
    -----
    On a bright background, the optical density of the sample that absorbs
    most, natural logarithm, against the brightest hundredth of the picture;
    on a dark one, the brightness of the brightest sample: of lightly smoothed
    pixels, thresholded by Otsu's method [1]_, and, on a bright background, kept
    between densities of 0.05 and 0.15, the latter being what counts as stained
    in [2]_: a field full of tissue has next to no background for Otsu to find.
    Where there is no glass at all, the palest tissue passes for it. Specks and
    holes of less than one pixel in ten thousand go.

    References
    ----------
    .. [1] N. Otsu. A threshold selection method from gray-level histograms.
       IEEE Trans. SMC 9, 62-66 (1979). doi:10.1109/TSMC.1979.4310076
    .. [2] M. Macenko et al. A method for normalizing histology slides for
       quantitative analysis. ISBI 2009, 1107-1110. doi:10.1109/ISBI.2009.5193250

    Examples
    --------
    >>> import numpy as np
    >>> slide = np.full((90, 90, 3), 240, np.uint8)
    >>> slide[30:60, 30:60] = (190, 110, 160)
    >>> mask = tissue_mask(slide)
    >>> bool(mask[45, 45]), bool(mask[5, 5])
    (True, False)
    """
    values = np.asarray(pixels, np.float32)
    values = _smoothed(values[..., None] if values.ndim == 2 else values[..., :3])
    if _bright_background(values):
        density = _density(values)
        return _cleaned(density > np.clip(_otsu(density), _FAINTEST, _SURE))
    brightness = values.max(-1)
    return _cleaned(brightness > _otsu(brightness))


def _smoothed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy import ndimage

    # First of all: the larger of two noisy samples is brighter than both are on average.
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(values, (_SMOOTHING, _SMOOTHING, 0))
    return smooth


def _bright_background(values: NDArray[np.float32]) -> bool:
    """Whether what is shown is darker than its background."""
    darkest = values.min(-1)
    low, middle, high = np.percentile(darkest, (1, 50, 99))
    if values.shape[-1] == 1:
        return bool(middle - low > high - middle)  # most of a picture is background
    # In colour, glass tells: it is bright in all samples, and no fluorescent dye is.
    return bool(high > 0.5 * values.max())


def _density(values: NDArray[np.float32]) -> NDArray[np.float32]:
    white = np.maximum(np.percentile(values, 99, axis=(0, 1)), 1).astype(np.float32)
    density: NDArray[np.float32] = -np.log(np.clip(values / white, 1e-3, 1).min(-1))
    return density


def _otsu(values: NDArray[np.float32]) -> float:
    from skimage.filters import threshold_otsu

    if np.ptp(values) == 0:
        return float(values.flat[0])
    return float(threshold_otsu(values))  # type: ignore[no-untyped-call]


def _cleaned(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    smallest = max(round(mask.size * _SMALL), 2)
    return ~_without_specks(~_without_specks(mask, smallest), smallest)


def _without_specks(mask: NDArray[np.bool_], smallest: int) -> NDArray[np.bool_]:
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    kept = sizes >= smallest
    kept[0] = False
    found: NDArray[np.bool_] = kept[labels]
    return found
