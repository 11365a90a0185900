"""Read boxes that reach beyond an image, where it is mirrored.

The image is extended once, as a whole: pixel -1 is pixel 1, pixel N is pixel
N - 2 (the border itself is not repeated), and again for as long as needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box


def mirror_indices(start: int, stop: int, length: int) -> NDArray[np.intp]:
    """Return which pixels of an axis appear at positions ``start`` to ``stop``.

    Parameters
    ----------
    start, stop : int
        Half-open interval; may begin below 0 and end beyond `length`.
    length : int
        Pixels along the axis, at least 1.

    Returns
    -------
    ndarray of intp, shape (stop - start,)
        Indices in ``0 .. length - 1``, as ``numpy.pad(mode="reflect")`` has them.

    Examples
    --------
    >>> mirror_indices(-2, 6, length=4).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    position = np.arange(start, stop)
    if length == 1:
        return np.zeros(len(position), np.intp)
    folded = position % (2 * (length - 1))
    return np.minimum(folded, 2 * (length - 1) - folded).astype(np.intp)


def read_mirrored(read: Callable[[Box], NDArray[Any]], box: Box, shape: tuple[int, ...]) -> NDArray[Any]:
    """Read a box that may reach beyond the image.

    Parameters
    ----------
    read : callable
        Returns the pixels of a box inside the image; its last axes are spatial.
    box : Box
        What to read.
    shape : tuple of int
        Spatial shape of the image.

    Returns
    -------
    ndarray
        The box, as its last axes.

    Examples
    --------
    >>> image = np.arange(100)
    >>> read_mirrored(lambda box: image[slice(*box[0])], ((-2, 3),), image.shape).tolist()
    [2, 1, 0, 1, 2]
    """
    indices = [mirror_indices(*side, length) for side, length in zip(box, shape, strict=True)]
    inside = tuple((int(i.min()), int(i.max()) + 1) for i in indices)
    pixels = read(inside)
    for axis, (side, (low, high), index) in enumerate(zip(box, inside, indices, strict=True)):
        if side != (low, high):
            pixels = np.take(pixels, index - low, axis=axis - len(shape))
    return pixels
