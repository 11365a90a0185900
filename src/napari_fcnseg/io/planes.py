"""Open a folder of TIFF files, one plane each, as a stack."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io.choosing import choose_level, choose_series
from napari_fcnseg.io.lazy_image import LazyImage
from napari_fcnseg.io.tiff import open_tiff_image

if TYPE_CHECKING:
    import dask.array as da

_SUFFIXES = (".tif", ".tiff")


def plane_files(folder: Path) -> list[Path]:
    """Return the TIFF files of a folder as people count them: plane 2 before plane 10."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith(".")]
    return sorted((p for p in found if p.is_file()), key=lambda p: _natural(p.name))


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p]


def open_planes_image(
    folder: Path, files: list[Path], level: int | None, series: int | str | None
) -> LazyImage:
    """Open a folder of planes; see :func:`open_image`.

    Nothing says whether the files are depths or times: they are shown as z, and ``axes_stated`` is False.
    """
    first = open_tiff_image(files[0], None, None)
    if "z" in first.axes or "t" in first.axes:
        raise ImageFileError(
            f"{folder} holds {len(files)} TIFF files, and {files[0].name} is no plane but has the axes "
            f"{first.axes!r}. Open one of them, or combine them into OME-TIFF or OME-Zarr."
        )
    pixels = PlanePixels(files, first.shape, first.dtype, getattr(first.pixels, "chunks", first.shape))
    choose_series(folder, [folder.name], lambda _: pixels.shape, series)
    return LazyImage(
        data=_as_dask(pixels),
        axes="z" + first.axes,
        channel_names=first.channel_names,
        scale={a: size for a, size in first.scale.items() if a != "z"},
        units={a: unit for a, unit in first.units.items() if a != "z"},
        level=choose_level(folder, 1, level),
        name=folder.name,
        path=folder,
        axes_stated=False,
        pixels=pixels,
    )


def _as_dask(pixels: PlanePixels) -> da.Array:
    import dask.array as da
    from dask.base import tokenize

    stamps = [(str(f.resolve()), f.stat().st_mtime_ns) for f in pixels.files]
    data: da.Array = da.from_array(  # type: ignore[no-untyped-call]
        pixels,
        chunks=(1, *pixels.shape[1:]),
        name=f"open_image-{tokenize(stamps)}",
        asarray=False,
        fancy=False,
        meta=np.empty((0,) * pixels.ndim, pixels.dtype),
    )
    return data


class PlanePixels:
    """Array-like view of planes in files of their own; as :attr:`LazyImage.pixels`.

    Parameters
    ----------
    files : list of pathlib.Path
        One per plane.
    shape : tuple of int
        Of each of them. Those of the others are looked at when they are read:
        to open ten thousand files takes longer than anybody waits.
    dtype : numpy.dtype
        Of each of them.
    chunks : tuple of int
        What can be decoded by itself in each of them.
    """

    def __init__(
        self, files: list[Path], shape: tuple[int, ...], dtype: np.dtype[Any], chunks: tuple[int, ...]
    ) -> None:
        self.files, self.dtype = files, dtype
        self.shape, self.ndim, self.chunks = (len(files), *shape), 1 + len(shape), (1, *chunks)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        sides = [slice(*part.indices(n)[:2]) for part, n in zip(index, self.shape, strict=True)]
        out = np.empty([s.stop - s.start for s in sides], self.dtype)
        for at, file in enumerate(self.files[sides[0]]):
            out[at] = self._plane(file)[tuple(sides[1:])]
        return out

    def _plane(self, file: Path) -> Any:
        plane = open_tiff_image(file, None, None)
        if (plane.shape, plane.dtype) != (self.shape[1:], self.dtype):
            raise ImageFileError(
                f"{file} is {plane.dtype} of shape {plane.shape}, and the first plane, {self.files[0].name}, "
                f"{self.dtype} of shape {self.shape[1:]}. Take the file out of the folder, or give the "
                "same shape to all."
            )
        return plane.data if plane.pixels is None else plane.pixels
