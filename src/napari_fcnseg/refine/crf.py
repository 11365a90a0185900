"""A dense conditional random field over the pixels of an image, solved by mean field.

Every pixel is coupled with every other, the more the nearer and the more
similar in colour, so that classes follow the edges of the image [1]_. Both
kernels contain the pixel itself, as in the published code; with the diagonal
they are positive definite and the updates of all pixels at once converge for
Potts [2]_.

References
----------
.. [1] P. Krähenbühl, V. Koltun, "Efficient Inference in Fully Connected CRFs with
       Gaussian Edge Potentials", NIPS 2011 (arXiv:1210.5644): equation 3 for the
       kernels, algorithm 1 for the mean field, section 3.1 for the filtering.
.. [2] P. Krähenbühl, V. Koltun, "Parameter Learning and Convergent Inference for
       Dense Random Fields", ICML 2013.
.. [3] H. Noh, S. Hong, B. Han, "Learning Deconvolution Network for Semantic
       Segmentation", ICCV 2015, and the code of its authors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from napari_fcnseg._shared.errors import DeviceError, InputError
from napari_fcnseg.refine.checking import check_image, check_probabilities
from napari_fcnseg.refine.crf_kernels import ExactKernel, GridKernel, Kernel, LatticeKernel
from napari_fcnseg.refine.crf_mean_field import settle
from napari_fcnseg.refine.crf_options import CrfOptions, Method, Normalization, Offsets

# Up to so many pixels, 32 x 32, the full kernel takes a moment; its time grows with their square.
EXACT_UP_TO = 1024
# The least probability that a class is given, so that no pixel is beyond persuasion.
LEAST = 1e-5


def dense_crf(
    probabilities: Any,
    image: Any,
    *,
    channel_axis: int | None = None,
    iterations: int = 10,
    theta_alpha: float = 20.0,
    theta_beta: float = 3.0,
    theta_gamma: float = 3.0,
    bilateral_weight: float = 5.0,
    smoothness_weight: float = 3.0,
    compatibility: ArrayLike | None = None,
    offsets: Offsets | None = None,
    intensity_range: float | Sequence[float] | None = None,
    spacing: Sequence[float] | None = None,
    origin: Sequence[float] | None = None,
    normalization: Normalization = "symmetric",
    method: Method = "auto",
    device: str = "cpu",
) -> NDArray[np.float32]:
    """Refine class probabilities so that classes follow the colours of the image.

    Minimises by mean field the sum over pixels of ``-log p`` and over pairs of
    pixels i, j of the cost of their classes times ::

        bilateral_weight  * exp(-|p_i - p_j|² / 2 theta_alpha² - |I_i - I_j|² / 2 theta_beta²)
        + smoothness_weight * exp(-|p_i - p_j|² / 2 theta_gamma²)

    Parameters
    ----------
    probabilities : array, shape (classes, *spatial)
        Sum 1 over the classes. Those below 0.00001 count as that.
    image : array, shape `spatial` or with a channel axis
        Any number of spatial axes and channels, any real dtype.
    channel_axis : int, optional
        The axis of the channels or colours of `image`.
    iterations : int
        Of the mean field; 5 to 10 are usual, 0 changes nothing.
    theta_alpha, theta_gamma : float
        How far the bilateral and the smoothness kernel reach: standard
        deviations in units of `spacing`, so in pixels if that is not given.
        The defaults of these, of `theta_beta` and of the weights are those
        with which DeconvNet was refined [3]_; the examples of pydensecrf have
        80, 13 and 10 where we have 20, 3 and 5, and move borders farther.
    theta_beta : float
        How different colours may be: the standard deviation in units of 1/255
        of `intensity_range`, so that 3 means the same for 8-bit images,
        16-bit images and images of 0 to 1.
    bilateral_weight, smoothness_weight : float
        0 leaves a kernel out. Without normalisation much smaller weights are
        needed, as pixels then hear the sum of their neighbours, not a mean.
    compatibility : array, shape (classes, classes), optional
        What a pixel of the class of the row pays for neighbours of the class of
        the column; it need not be symmetric. None for Potts: 1 where they
        differ.
    offsets : mapping of offset to array of shape (classes, classes), optional
        Directional terms: ``{(dy, dx): m}`` adds ``m[a, b]`` where a pixel has
        class a and the one at this offset from it class b, as in "no sky below
        the road". Offsets are integers in pixels, in order of the axes.
    intensity_range : float or sequence of float, optional
        Highest minus lowest value that the image could have, for all channels
        or for each. None takes 255 for uint8 and otherwise the extent of this
        image: give it if you refine the parts of a larger one.
    spacing : sequence of float, optional
        Size of a pixel along each spatial axis.
    origin : sequence of float, optional
        Index of the first pixel in a larger image of which this is a part, so
        that all parts are approximated by the same lattice.
    normalization : {"symmetric", "none"}
        Whether each kernel is divided by the square roots of both pixels' sums
        over it.
    method : {"auto", "exact", "lattice"}
        ``"exact"`` computes every pair: for N pixels N² work. ``"lattice"`` is
        linear in N; the bilateral kernel is then approximated by a
        permutohedral lattice (``benchmarks/crf.py`` prints by how much) and the
        smoothness kernel ends at 3 standard deviations. ``"auto"`` is exact up
        to 1024 pixels.
    device : str
        Where to compute, such as ``"cuda"``.

    Returns
    -------
    ndarray of float32, shape (classes, *spatial)
        Sum 1 over the classes.

    Raises
    ------
    InputError
        If an array or an option cannot be used.
    DeviceError
        If the device is not there.

    See Also
    --------
    crf_halo : how many pixels around a part of an image matter.

    Notes
    -----
    The defaults are those of the examples of pydensecrf. Source: [1]_ in the
    module, equation 3 and algorithm 1.

    Examples
    --------
    Three in ten pixels of a network's answer are wrong; the image shows where the edge is.

    >>> image = np.zeros((20, 24), np.uint8)
    >>> image[:, 12:] = 200
    >>> wrong = np.random.default_rng(0).random(image.shape) < 0.3
    >>> foreground = np.where((image > 0) != wrong, 0.7, 0.3)
    >>> refined = dense_crf(np.stack([1 - foreground, foreground]), image)
    >>> bool((refined.argmax(0) == (image > 0)).all())
    True
    """
    options = CrfOptions(
        iterations=iterations,
        theta_alpha=theta_alpha,
        theta_beta=theta_beta,
        theta_gamma=theta_gamma,
        bilateral_weight=bilateral_weight,
        smoothness_weight=smoothness_weight,
        compatibility=compatibility,
        offsets=offsets,
        intensity_range=intensity_range,
        spacing=spacing,
        origin=origin,
        normalization=normalization,
        method=method,
    )
    unary = check_probabilities(probabilities)
    pixels = check_image(image, unary.shape[1:], channel_axis)
    spans = options.spans(pixels, np.asarray(image).dtype)
    return _refined(unary, pixels * np.float32(255 / theta_beta) / spans, options, _device(device))


def crf_halo(*, tolerance: float = 0.05, **options: Any) -> int:
    """Return how many pixels around a part of an image matter for refining it.

    Parameters
    ----------
    tolerance : float
        Between 0 and 1. Beyond the halo the kernels are below this part of
        their height.
    **options
        Those of :func:`dense_crf`, but for `channel_axis` and `device`.

    Returns
    -------
    int
        Pixels on each side, along the axis where they are smallest.

    Raises
    ------
    InputError
        If an option cannot be used.

    Notes
    -----
    A Gaussian reaches ``theta * sqrt(2 log(1 / tolerance))``. Every iteration
    passes on what the one before has heard, so a part with its halo is near the
    whole, not equal to it: ``benchmarks/crf.py`` prints the difference.

    Examples
    --------
    >>> crf_halo()
    49
    >>> crf_halo(theta_alpha=20, tolerance=0.01)
    61
    """
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance={tolerance!r} is not possible; give a number between 0 and 1.")
    chosen = CrfOptions(**options)
    widths = {chosen.theta_alpha: chosen.bilateral_weight, chosen.theta_gamma: chosen.smoothness_weight}
    widest = max((theta for theta, weight in widths.items() if weight), default=0.0)
    smallest = 1.0 if chosen.spacing is None else min(chosen.steps(np.size(chosen.spacing)))
    reach = math.ceil(widest / smallest * math.sqrt(-2 * math.log(tolerance)))
    jumps = [abs(o) * chosen.iterations for offset in chosen.offsets or () for o in offset]
    return max([reach, *jumps]) if chosen.iterations else 0


def _refined(
    unary: NDArray[np.float32], colours: NDArray[np.float32], options: CrfOptions, device: torch.device
) -> NDArray[np.float32]:
    """Return the mean field, classes first."""
    classes, *shape = unary.shape
    costs = options.costs(classes)
    directions = options.directions(classes, len(shape))
    with torch.inference_mode():
        given = torch.from_numpy(unary).to(device).reshape(classes, -1)
        log = torch.clamp(given.T, min=LEAST, out=given.new_empty(given.shape[::-1])).log_()
        settled = settle(
            log,
            shape,
            _kernels(torch.from_numpy(colours).to(device), options),
            costs=None if costs is None else torch.from_numpy(costs).to(device),
            directions={o: torch.from_numpy(m).to(device) for o, m in directions.items()},
            iterations=options.iterations,
        )
        return settled.T.reshape(unary.shape).contiguous().cpu().numpy()


def _kernels(colours: Tensor, options: CrfOptions) -> list[Kernel]:
    """Return the kernels that have a weight; colours are in standard deviations, the channels last."""
    shape = colours.shape[:-1]
    steps = options.steps(len(shape))
    exact = options.method == "exact" or (options.method == "auto" and math.prod(shape) <= EXACT_UP_TO)
    normalized = options.normalization == "symmetric"
    places = _places(shape, steps, options.corner(len(shape))).to(colours.device)
    kernels: list[Kernel] = []
    if options.bilateral_weight:
        features = torch.cat([places / options.theta_alpha, colours.reshape(len(places), -1)], 1)
        bilateral = ExactKernel if exact else LatticeKernel
        kernels.append(bilateral(features, options.bilateral_weight, normalized=normalized))
    if options.smoothness_weight and exact:
        features = places / options.theta_gamma
        kernels.append(ExactKernel(features, options.smoothness_weight, normalized=normalized))
    elif options.smoothness_weight:
        sigmas = [options.theta_gamma / step for step in steps]
        kernels.append(
            GridKernel(shape, sigmas, options.smoothness_weight, normalized=normalized, device=colours.device)
        )
    return kernels


def _places(shape: Sequence[int], steps: Sequence[float], corner: Sequence[float]) -> Tensor:
    """Return where each pixel is, shape (pixels, axes)."""
    sides = zip(shape, steps, corner, strict=True)
    axes = [(torch.arange(length) + first) * step for length, step, first in sides]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))


def _device(device: str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"device={device!r} is not on this machine: {error}") from error
