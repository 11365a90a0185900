"""Open whole slides through OpenSlide: the formats whose layout only it knows."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg._shared.optional import need
from napari_fcnseg.io.choosing import block_shape, choose_level, choose_series
from napari_fcnseg.io.lazy_image import RGB_NAMES, LazyImage
from napari_fcnseg.io.tiff import scale_of_level
from napari_fcnseg.io.tiff_metadata import believed_sizes, unbelieved

if TYPE_CHECKING:
    import dask.array as da

_AXES = "yxc"
# OpenSlide places what it reads by pixels of the finest level, and where the ratio is no whole number it
# interpolates. Read in one fixed grid, a pixel has one value, whatever box it is asked for in.
_TILE = 512


def open_slide_image(path: Path, level: int | None, series: int | str | None) -> LazyImage:
    """Open one level of a slide; see :func:`open_image`.

    Pixels are RGB over white where the scanner saw nothing. The whole level is
    given, not only the scanned bounds; ``bounds_offset`` says where these begin.
    """
    slide = _opened(path)
    levels = tuple((height, width, 3) for width, height in slide.level_dimensions)
    choose_series(path, [path.name], lambda _: levels[0], series)
    level = choose_level(path, len(levels), level)
    facts = slide.properties
    stated = {a: float(facts[key]) for a in "yx" if (key := f"openslide.mpp-{a}") in facts}
    scale, units = believed_sizes(stated)
    pixels = SlidePixels(path, level)
    return LazyImage(
        data=_as_dask(pixels),
        axes=_AXES,
        channel_names=RGB_NAMES,
        scale=scale_of_level(scale, _AXES, levels, level),
        units=units,
        levels=levels,
        level=level,
        name=path.name,
        path=path,
        pixels=pixels,
        bounds_offset=(int(facts.get("openslide.bounds-y", 0)), int(facts.get("openslide.bounds-x", 0))),
        size_problem=unbelieved(path.name, stated),
    )


def recognised(path: Path) -> bool:
    """Whether OpenSlide is installed and knows the format of a file."""
    try:
        openslide = _library(path)
    except ImportError:
        return False
    return openslide.OpenSlide.detect_format(path) is not None


def _library(path: Path) -> Any:
    return need("openslide", "slides", f"reading {path.name}")


def _opened(path: Path) -> Any:
    openslide = _library(path)
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideError as exc:
        raise ImageFileError(
            f"{path} cannot be read as a slide ({exc}): it is damaged, cut off, of a kind that OpenSlide "
            "does not know, or the files that belong to it are missing. Copy it again with all its files."
        ) from exc


def _as_dask(pixels: SlidePixels) -> da.Array:
    import dask.array as da
    from dask.base import tokenize

    stat = pixels.path.stat()
    token = tokenize(str(pixels.path.resolve()), stat.st_mtime_ns, stat.st_size, pixels.level)
    data: da.Array = da.from_array(  # type: ignore[no-untyped-call]
        pixels,
        chunks=block_shape(pixels.shape, pixels.chunks, _AXES),
        name=f"open_image-{token}",
        asarray=False,
        fancy=False,
        meta=np.empty((0, 0, 0), np.uint8),
    )
    return data


class SlidePixels:
    """Array-like view of one level of a slide, axes yxc, red, green and blue.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    level : int
        0 is the finest.

    Attributes
    ----------
    shape, dtype, ndim, chunks
        As :attr:`LazyImage.pixels` has them.
    """

    def __init__(self, path: Path, level: int) -> None:
        self.path, self.level = path, level
        self._slide: Any = _opened(path)
        self._lock = threading.Lock()
        width, height = self._slide.level_dimensions[level]
        self.shape, self.ndim, self.dtype = (height, width, 3), 3, np.dtype(np.uint8)
        self.chunks = (min(_TILE, height), min(_TILE, width), 3)
        self._downsample = float(self._slide.level_downsamples[level])

    def __reduce__(self) -> tuple[type[SlidePixels], tuple[Path, int]]:
        return (SlidePixels, (self.path, self.level))

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[np.uint8]:
        rows, columns, samples = (range(n)[part] for n, part in zip(self.shape, index, strict=True))
        out = np.empty((len(rows), len(columns), 3), np.uint8)
        for y in range(rows.start // _TILE * _TILE, rows.stop, _TILE):
            for x in range(columns.start // _TILE * _TILE, columns.stop, _TILE):
                tile = self._tile(y, x)
                top, left = max(rows.start, y), max(columns.start, x)
                part = tile[top - y : rows.stop - y, left - x : columns.stop - x]
                top, left = top - rows.start, left - columns.start
                out[top : top + part.shape[0], left : left + part.shape[1]] = part
        return out[..., samples.start : samples.stop]

    def _tile(self, y: int, x: int) -> NDArray[np.uint8]:
        height, width = min(_TILE, self.shape[0] - y), min(_TILE, self.shape[1] - x)
        place = (round(x * self._downsample), round(y * self._downsample))
        slide = self._slide
        try:
            return _over_white(np.asarray(slide.read_region(place, self.level, (width, height))))
        except Exception as exc:
            self._replace(slide)
            raise ImageFileError(
                f"{self.path} cannot be decoded at level {self.level}, the tile of {width} x {height} pixels "
                f"at x={x}, y={y}: {exc}. The file is damaged there; copy it again from its source."
            ) from exc

    def _replace(self, broken: Any) -> None:
        # After one error OpenSlide refuses everything; the other tiles may be sound.
        with self._lock:
            if self._slide is broken:
                self._slide = _opened(self.path)


def _over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return rgba[..., :3]
    wide = rgba[..., :3].astype(np.uint16) * alpha + 255 * (255 - alpha.astype(np.uint16))
    return ((wide + 127) // 255).astype(np.uint8)
