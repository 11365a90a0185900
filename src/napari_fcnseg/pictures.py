"""A picture of what was found: outlines of the objects over the image."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_fcnseg.io import LazyImage

LARGEST = 4096  # pixels: what picture viewers open without trouble
SMALLEST = 1024  # below it the picture is enlarged, so that outlines stay thin beside the objects
_GOLDEN = 0.61803398875


def overlay_of(
    image: LazyImage,
    labels: Any,
    *,
    kind: str,
    channel: Any = None,
    colours: Mapping[int, str] | None = None,
    largest: int = LARGEST,
    smallest: int = SMALLEST,
) -> NDArray[np.uint8]:
    """Return the picture of one plane: the middle one of a stack.

    Parameters
    ----------
    image : LazyImage
        What was segmented.
    labels : array of int
        Its labels, without the channel axis.
    kind : str
        ``"instances"``: each object outlined in a colour of its own;
        ``"classes"``: classes tinted.
    channel : int, str or tuple, optional
        The channel that was segmented, to be shown.
    colours : mapping of int to str, optional
        Colours of the classes.
    largest, smallest : int
        Pixels of the longer side: beyond the first, pixels are left out; below
        the second, objects are outlined on an enlarged picture.

    Returns
    -------
    array of uint8, shape (height, width, 3)
    """
    import numpy as np

    axes, step = image.axes, _step(image, largest)
    shown = np.asarray(image.data[_plane(axes, image.shape, step)])
    plain_axes = axes.replace("c", "")
    shape = [n for a, n in zip(axes, image.shape, strict=True) if a != "c"]
    found = np.asarray(labels[_plane(plain_axes, shape, step)])
    left = [a for a in axes if a in "cyx"]
    shown = shown.transpose([left.index(a) for a in "yxc" if a in left])
    if plain_axes.index("y") > plain_axes.index("x"):
        found = found.T
    picture = _display(shown, image, channel)
    if kind == "classes":
        return draw_classes(picture, found, colours)
    return draw_outlines(picture, found, smallest)


def draw_outlines(
    picture: NDArray[np.uint8], labels: NDArray[Any], smallest: int = SMALLEST
) -> NDArray[np.uint8]:
    """Return `picture` with the inner outline of each object in a strong colour.

    Small pictures are enlarged first.

    Parameters
    ----------
    picture : array of uint8, shape (height, width, 3)
    labels : array of int, shape (height, width)
    smallest : int
        Pixels of the longer side below which a picture is small.
    """
    import numpy as np
    from skimage.segmentation import find_boundaries

    factor = max(1, -(-smallest // max(labels.shape)))
    drawn = _enlarged(picture, factor)
    grown = labels.repeat(factor, axis=0).repeat(factor, axis=1)
    edges = find_boundaries(grown, mode="inner")  # type: ignore[no-untyped-call]
    if factor > 1:
        inner = np.where(edges, 0, grown)
        edges |= find_boundaries(inner, mode="inner")  # type: ignore[no-untyped-call]
    colours = _strong_colours()
    drawn[edges] = colours[grown[edges].astype(np.int64) % len(colours)]
    return drawn


def draw_classes(
    picture: NDArray[np.uint8], labels: NDArray[Any], colours: Mapping[int, str] | None = None
) -> NDArray[np.uint8]:
    """Return `picture` tinted by class; 0 stays as it is.

    Parameters
    ----------
    picture : array of uint8, shape (height, width, 3)
    labels : array of int, shape (height, width)
    colours : mapping of int to str, optional
        ``"#rrggbb"`` by class value; strong colours by default.
    """
    import numpy as np

    strong = _strong_colours()
    tinted = picture.copy()
    for value in np.unique(labels[labels > 0]):
        stated = (colours or {}).get(int(value))
        paint = np.array(list(bytes.fromhex(stated[1:]))) if stated else strong[int(value) % len(strong)]
        inside = labels == value
        tinted[inside] = (0.55 * tinted[inside] + 0.45 * paint).astype(np.uint8)
    return tinted


def to_display(plane: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a grey or colour plane as uint8 colours, stretched to its percentiles."""
    import numpy as np

    values = np.nan_to_num(plane.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = np.percentile(values, (0.2, 99.8))
    scaled = np.clip((values - low) / max(float(high - low), 1e-9), 0, 1)
    grey = np.asarray(np.rint(255 * scaled), dtype=np.uint8)
    return grey if grey.ndim == 3 else np.stack([grey] * 3, axis=-1)


def _strong_colours() -> NDArray[np.uint8]:
    import numpy as np

    # Brown, blue, purple and grey belong to stains: yellow to cyan and pink stand out from all of them.
    spread = [(k * _GOLDEN) % 1 for k in range(48)]
    hues = [0.15 + 0.47 * s if s < 0.8 else 0.85 + 0.4 * (s - 0.8) for s in spread]
    return np.array([[round(255 * c) for c in colorsys.hsv_to_rgb(h, 1, 1)] for h in hues], np.uint8)


def _step(image: LazyImage, largest: int) -> int:
    longest = max(n for a, n in zip(image.axes, image.shape, strict=True) if a in "yx")
    return -(-longest // largest)


def _plane(axes: str, shape: Sequence[int], step: int) -> tuple[int | slice, ...]:
    whole = {"c": slice(None), "y": slice(None, None, step), "x": slice(None, None, step)}
    return tuple(whole.get(a, n // 2) for a, n in zip(axes, shape, strict=True))


def _display(shown: NDArray[Any], image: LazyImage, channel: Any) -> NDArray[np.uint8]:
    """Return the plane ``yx`` or ``yxc`` as a colour picture."""
    import numpy as np

    if shown.ndim == 3 and image.rgb:
        colours = shown[..., :3]
        return colours.copy() if colours.dtype == np.uint8 else to_display(colours)
    return to_display(shown if shown.ndim == 2 else shown[..., _index(image, channel)])


def _index(image: LazyImage, channel: Any) -> int:
    first = channel[0] if isinstance(channel, tuple) and channel else channel
    if isinstance(first, str):
        return image.channel_names.index(first) if first in image.channel_names else 0
    return int(first or 0)


def _enlarged(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    if factor == 1:
        return picture.copy()
    size = (picture.shape[1] * factor, picture.shape[0] * factor)
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
