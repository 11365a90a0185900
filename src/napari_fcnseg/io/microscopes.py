"""Open CZI, ND2 and LIF files of microscopes through bioio."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import FcnsegError, ImageFileError
from napari_fcnseg._shared.optional import need
from napari_fcnseg.io.choosing import choose_level, choose_series
from napari_fcnseg.io.lazy_image import LazyImage, colour_names
from napari_fcnseg.io.tiff_metadata import clean_sizes

if TYPE_CHECKING:
    import dask.array as da

_READERS = {".czi": "bioio_czi", ".nd2": "bioio_nd2", ".lif": "bioio_lif"}


def open_microscope_image(path: Path, level: int | None, series: int | str | None) -> LazyImage:
    """Open one scene of a file; see :func:`open_image`. Axes of length 1 but y and x are left out."""
    with _understood(path):
        reader = _reader(path)
        names = [str(scene) for scene in reader.scenes]
        scene = choose_series(path, names, lambda i: _shape(reader, i), series)
        reader.set_scene(scene)
        shapes = [_level(reader, i).shape for i in reader.resolution_levels]
        level = choose_level(path, len(shapes), level)
        pixels = MicroscopePixels(path, scene, level)
        sizes = reader.physical_pixel_sizes
        scale, units = clean_sizes({a: (getattr(sizes, a.upper()), "um") for a in "zyx" if a in pixels.axes})
        channels = _channel_names(reader, pixels)
    return LazyImage(
        data=_as_dask(pixels),
        axes=pixels.axes,
        channel_names=channels,
        scale=scale,
        units=units,
        levels=tuple(tuple(int(shape[i]) for i in pixels.kept) for shape in shapes),
        level=level,
        name=names[scene] if len(names) > 1 else path.name,
        path=path,
        pixels=pixels,
    )


@contextlib.contextmanager
def _understood(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # Readers complain about metadata that nothing here looks at.
            warnings.simplefilter("ignore")
            yield
    except (FcnsegError, PermissionError):
        raise
    except Exception as exc:
        raise ImageFileError(
            f"{path} cannot be read as {path.suffix[1:].upper()} ({exc}): it is damaged, "
            "cut off, or of a kind that its reader does not know. "
            "Save it as OME-TIFF with the microscope's software."
        ) from exc


def _reader(path: Path) -> Any:
    return need(_READERS[path.suffix.lower()], "formats", f"reading {path.name}").Reader(path)


def _shape(reader: Any, scene: int) -> tuple[int, ...]:
    reader.set_scene(scene)
    return tuple(int(n) for n in reader.shape)


def _level(reader: Any, level: int) -> Any:
    reader.set_resolution_level(level)
    # Fields of a mosaic (M) are put together, except where the reader cannot.
    with contextlib.suppress(AttributeError, NotImplementedError):
        if "M" in reader.dims.order:
            return reader.mosaic_xarray_dask_data
    return reader.xarray_dask_data


def _lazy(reader: Any, found: Any) -> da.Array:
    import dask.array as da
    from dask.delayed import delayed

    data: da.Array = found.data
    if (
        "S" not in found.dims
        or "M" in reader.dims.order
        or type(reader).__module__.split(".")[0] != "bioio_czi"
    ):
        return data
    # bioio-czi 3.0.1 gives the first colour for all three where it reads lazily.
    whole = delayed(lambda: np.asarray(reader.xarray_data.data))()
    return da.from_delayed(whole, found.shape, found.dtype)  # type: ignore[no-untyped-call,no-any-return]


def _channel_names(reader: Any, pixels: MicroscopePixels) -> tuple[str, ...]:
    if "c" not in pixels.axes:
        return ()
    count = pixels.shape[pixels.axes.index("c")]
    if pixels.axes.endswith("c"):
        return colour_names(count)
    names = tuple(str(name) for name in reader.channel_names or ())
    return names if len(names) == count else ()


def _as_dask(pixels: MicroscopePixels) -> da.Array:
    import dask.array as da
    from dask.base import tokenize

    path, scene, level = pixels.place
    stat = path.stat()
    token = tokenize(str(path.resolve()), stat.st_mtime_ns, stat.st_size, scene, level)
    data: da.Array = da.from_array(  # type: ignore[no-untyped-call]
        pixels,
        chunks=pixels.chunks,
        name=f"open_image-{token}",
        asarray=False,
        fancy=False,
        meta=np.empty((0,) * pixels.ndim, pixels.dtype),
    )
    return data


class MicroscopePixels:
    """Array-like view of one level of one scene; as :attr:`LazyImage.pixels`.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    scene, level : int
        bioio's numbers of both.

    Attributes
    ----------
    axes : str
        One letter of ``t c z y x`` per dimension.
    kept : list of int
        Which of bioio's dimensions they are.
    """

    def __init__(self, path: Path, scene: int, level: int) -> None:
        self.place = path, scene, level
        reader = _reader(path)
        reader.set_scene(scene)
        found = _level(reader, reader.resolution_levels[level])
        names = [str(name) for name in found.dims]
        self.kept = [i for i, (a, n) in enumerate(zip(names, found.shape, strict=True)) if n > 1 or a in "YX"]
        self.axes = "".join("c" if names[i] == "S" else names[i].lower() for i in self.kept)
        if len(set(self.axes)) < len(self.axes) or not set(self.axes) <= set("tczyx"):
            raise ImageFileError(
                f"{path} has the dimensions {''.join(names)} of shape {found.shape}: more than t, c, z, y, "
                "x. Save the part to work on as OME-TIFF."
            )
        self._data = _lazy(reader, found)[
            tuple(slice(None) if i in self.kept else 0 for i in range(found.ndim))
        ]
        self.shape = tuple(int(n) for n in self._data.shape)
        self.chunks = tuple(int(sizes[0]) for sizes in self._data.chunks)
        self.ndim, self.dtype = len(self.shape), np.dtype(self._data.dtype).newbyteorder("=")

    def __reduce__(self) -> tuple[type[MicroscopePixels], tuple[Path, int, int]]:
        return (MicroscopePixels, self.place)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        # The caller's threads are threads enough.
        with _understood(self.place[0]):
            return np.asarray(self._data[index].compute(scheduler="synchronous"), dtype=self.dtype)
