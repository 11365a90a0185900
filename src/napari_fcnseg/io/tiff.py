"""Open TIFF, BigTIFF, OME-TIFF, ImageJ hyperstacks and what whole-slide scanners make of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io.choosing import block_shape, choose_level, choose_series
from napari_fcnseg.io.lazy_image import LazyImage
from napari_fcnseg.io.tiff_metadata import channel_names, pixel_sizes, size_problem
from napari_fcnseg.io.tiff_pixels import TiffPixels, open_tiff
from napari_fcnseg.io.views import WithoutAxes

if TYPE_CHECKING:
    import dask.array as da

# What tifffile calls the slide itself; beside it lie pictures of the label and of the whole glass.
_SLIDE = "Baseline"
_KNOWN = {"T": "t", "C": "c", "Z": "z", "Y": "y", "X": "x"}


def open_tiff_image(path: Path, level: int | None, series: int | str | None) -> LazyImage:
    """Open one level of one series of a TIFF file; see :func:`open_image`."""
    with open_tiff(path) as tiff:
        found = _series_of(path, tiff)
        names = [str(s.name or f"series {i}") for i, s in enumerate(found)]
        if series is None and names.count(_SLIDE) == 1:
            series = _SLIDE
        number = choose_series(path, names, lambda i: tuple(found[i].shape), series)
        chosen = found[number]
        shapes = [tuple(int(n) for n in lv.shape) for lv in chosen.levels]
        level = choose_level(path, len(shapes), level)
        scale, units = pixel_sizes(tiff, number)
        problem = size_problem(path.name, tiff, number)
        labels = {n: channel_names(tiff, number, n) for n in range(1, 1 + _most_channels(chosen))}
        letters = chosen.axes
    pixels = TiffPixels(path, number, level)
    _warn_of_missing(path, pixels)
    data, axes = _standard_axes(path, _as_dask(pixels, letters, path, (number, level)), letters)
    view = _view(pixels, standard_letters(path, letters, pixels.shape))
    levels = tuple(_standard_shape(path, s, letters) for s in shapes)
    return LazyImage(
        data=data,
        axes=axes,
        channel_names=labels.get(data.shape[axes.index("c")], ()) if "c" in axes else (),
        scale=scale_of_level(scale, axes, levels, level),
        units=units,
        levels=levels,
        level=level,
        name=path.name if chosen.name in ("", _SLIDE) else chosen.name,
        path=path,
        axes_stated=_states_axes(letters, shapes[level]),
        pixels=view,
        size_problem=problem,
    )


def _view(pixels: TiffPixels, axes: str) -> Any:
    if "s" in axes:
        return None  # channels of several samples each: rare enough for dask
    dropped = tuple(i for i, a in enumerate(axes) if a == "?")
    return WithoutAxes(pixels, dropped) if dropped else pixels


def _series_of(path: Path, tiff: Any) -> list[Any]:
    try:
        found = list(tiff.series)
    except Exception as exc:
        raise ImageFileError(
            f"{path} is TIFF, but its description of the images cannot be read ({exc}). "
            "Save it again with another program."
        ) from exc
    if not found:
        raise ImageFileError(f"{path} is TIFF, but holds no image. Copy it again from its source.")
    return found


def _most_channels(series: Any) -> int:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    return int(sizes.get("C", 1) * sizes.get("S", 1))


def _warn_of_missing(path: Path, pixels: TiffPixels) -> None:
    if pixels.missing_pages:
        warnings.warn(
            f"{path} describes {pixels.missing_pages} planes that are not there: a companion file is "
            "missing, or the recording was stopped. They read as 0.",
            stacklevel=4,
        )


def _as_dask(pixels: TiffPixels, letters: str, path: Path, chosen: tuple[int, int]) -> da.Array:
    import dask.array as da
    from dask.base import tokenize

    stat = path.stat()
    block = block_shape(pixels.shape, pixels.chunks, standard_letters(path, letters, pixels.shape))
    token = tokenize(str(path.resolve()), stat.st_mtime_ns, stat.st_size, chosen, block)
    # asarray=False and meta: otherwise dask reads from the file when it makes the graph.
    data: da.Array = da.from_array(  # type: ignore[no-untyped-call]
        pixels,
        chunks=block,
        name=f"open_image-{token}",
        asarray=False,
        fancy=False,
        meta=np.empty((0,) * pixels.ndim, pixels.dtype),
    )
    return data


def standard_letters(path: Path, letters: str, shape: tuple[int, ...]) -> str:
    """Translate tifffile's axes; ``"?"`` marks one to drop, ``"s"`` samples beside channels.

    Pages whose meaning the file does not state (tifffile's Q and I) are a stack:
    the first free of z, t and c.
    """
    out = [_KNOWN.get(a, "") for a in letters]
    if "S" in letters:
        out[letters.index("S")] = "s" if "c" in out else "c"
    for i, n in enumerate(shape):
        if not out[i]:
            free = [a for a in "ztc" if a not in out]
            out[i] = "?" if n == 1 else free[0] if free else "!"
    if "!" in out:
        raise ImageFileError(
            f"{path} has the axes {letters!r} with shape {shape}: more dimensions than t, c, z, y and x. "
            "Save the part to work on as its own file."
        )
    return "".join(out)


def _states_axes(letters: str, shape: tuple[int, ...]) -> bool:
    # An axis of length 1 is dropped, so it does not matter what it was.
    return all(n == 1 or a in _KNOWN or a == "S" for a, n in zip(letters, shape, strict=True))


def _standard_axes(path: Path, data: da.Array, letters: str) -> tuple[da.Array, str]:
    axes = standard_letters(path, letters, tuple(data.shape))
    data = data[tuple(0 if a == "?" else slice(None) for a in axes)] if "?" in axes else data
    axes = axes.replace("?", "")
    if "s" not in axes:
        return data, axes
    # Channels of several samples each: one row of channels, samples running faster.
    rest = axes.replace("s", "")
    at = rest.index("c")
    order = [axes.index(a) for a in rest[: at + 1] + "s" + rest[at + 1 :]]
    data = data.transpose(order)
    merged = (*data.shape[:at], -1, *data.shape[at + 2 :])
    return data.reshape(merged), rest  # type: ignore[no-untyped-call]


def _standard_shape(path: Path, shape: tuple[int, ...], letters: str) -> tuple[int, ...]:
    axes = standard_letters(path, letters, shape)
    samples = shape[axes.index("s")] if "s" in axes else 1
    return tuple(n * (samples if a == "c" else 1) for a, n in zip(axes, shape, strict=True) if a not in "?s")


def scale_of_level(
    scale: dict[str, float], axes: str, levels: tuple[tuple[int, ...], ...], level: int
) -> dict[str, float]:
    """Return the pixel size of a level from that of the finest one.

    Scanners round the size of a level down, so the ratio of sizes is rounded to
    the whole number it is meant to be when it is within one pixel of it.
    """
    out = {}
    for axis, size in scale.items():
        if axis not in axes:
            continue
        at = axes.index(axis)
        fine, coarse = levels[0][at], levels[level][at]
        whole = max(round(fine / coarse), 1)
        near = abs(fine - whole * coarse) < whole
        out[axis] = size * (whole if near else fine / coarse)
    return out
