"""Open the datasets of HDF5 files."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg._shared.optional import need
from napari_fcnseg.io.choosing import block_shape, choose_level, choose_series, likely_axes, spelled_axes
from napari_fcnseg.io.lazy_image import LazyImage
from napari_fcnseg.io.tiff_metadata import Sizes, clean_sizes

if TYPE_CHECKING:
    import dask.array as da


def open_hdf5_image(path: Path, level: int | None, series: int | str | None) -> LazyImage:
    """Open one dataset of two to five dimensions; see :func:`open_image`.

    Axes and pixel sizes are read where ilastik (``axistags``), Fiji's HDF5 plugin
    (``element_size_um``) or HDF5's own dimension labels state them.
    """
    with _opened(path) as file:
        shapes = _datasets(path, file)
        names = list(shapes)
        chosen = names[choose_series(path, names, lambda i: shapes[names[i]], series)]
        stated = _stated_axes(file[chosen])
        axes = stated or likely_axes(path, shapes[chosen])
        scale, units = _sizes(file[chosen], axes)
    pixels = Hdf5Pixels(path, chosen)
    return LazyImage(
        data=_as_dask(pixels, axes),
        axes=axes,
        scale=scale,
        units=units,
        level=choose_level(path, 1, level),
        name=path.name if len(names) == 1 else chosen,
        path=path,
        axes_stated=bool(stated) or axes == "yx",
        pixels=pixels,
    )


@contextlib.contextmanager
def _opened(path: Path) -> Any:
    h5py = need("h5py", "formats", f"reading {path.name}")
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401 - registers more compressions where it is installed
    try:
        file = h5py.File(path, "r", locking="best-effort")
    except PermissionError:
        raise  # says what is wrong, and the file is not
    except OSError as exc:
        raise ImageFileError(
            f"{path} cannot be read as HDF5 ({exc}): it is damaged, cut off or something else under that "
            "name. Copy it again from its source."
        ) from exc
    with file:
        yield file


def _datasets(path: Path, file: Any) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}

    def note(name: str, node: Any) -> None:
        shape = getattr(node, "shape", None) or ()
        if 2 <= len(shape) <= 5 and node.dtype.kind in "buif":
            found[name] = tuple(int(n) for n in shape)

    file.visititems(note)
    if not found:
        raise ImageFileError(
            f"{path} holds no dataset of numbers with 2 to 5 dimensions. Give the file that holds the image."
        )
    return found


def _stated_axes(dataset: Any) -> str:
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        return spelled_axes([tag["key"] for tag in json.loads(dataset.attrs["axistags"])["axes"]])
    return spelled_axes([dimension.label for dimension in dataset.dims])


def _sizes(dataset: Any, axes: str) -> Sizes:
    sizes = np.ravel(dataset.attrs.get("element_size_um", ()))
    letters = [a for a in "zyx" if a in axes]
    return clean_sizes({a: (size, "um") for a, size in zip(letters, sizes[-len(letters) :], strict=False)})


def _as_dask(pixels: Hdf5Pixels, axes: str) -> da.Array:
    import dask.array as da
    from dask.base import tokenize

    stat = pixels.path.stat()
    token = tokenize(str(pixels.path.resolve()), stat.st_mtime_ns, stat.st_size, pixels.name)
    data: da.Array = da.from_array(  # type: ignore[no-untyped-call]
        pixels,
        chunks=block_shape(pixels.shape, pixels.chunks, axes),
        name=f"open_image-{token}",
        asarray=False,
        fancy=False,
        meta=np.empty((0,) * pixels.ndim, pixels.dtype),
    )
    return data


class Hdf5Pixels:
    """Array-like view of a dataset, which is open only while it is read; as :attr:`LazyImage.pixels`.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    name : str
        Path of the dataset in it.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        with _opened(path) as file:
            dataset = file[name]
            self.shape = tuple(int(n) for n in dataset.shape)
            self.ndim, self.dtype = len(self.shape), np.dtype(dataset.dtype).newbyteorder("=")
            # Without chunks a dataset lies in rows; single rows would be too many.
            rows = (1,) * (self.ndim - 2) + tuple(min(n, 512) for n in self.shape[-2:])
            self.chunks = tuple(int(n) for n in dataset.chunks or rows)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        with _opened(self.path) as file:
            try:
                return np.asarray(file[self.name][index], dtype=self.dtype)
            except Exception as exc:
                box = tuple((s.start, s.stop) for s in index)
                raise ImageFileError(
                    f"{self.path} cannot be read: dataset {self.name!r}, box {box} ({exc}). It is damaged or "
                    "cut off there, or its compression needs the package hdf5plugin."
                ) from exc
