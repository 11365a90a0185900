"""Open PNG and JPEG: the header now, the pixels when they are asked for."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io.choosing import choose_level, choose_series
from napari_fcnseg.io.lazy_image import LazyImage, colour_names

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {2: 3, 4: 2, 6: 4}  # PNG colour types with more than one sample
_EXIF_ORIENTATION = 0x0112


def open_raster_image(path: Path, level: int | None, series: int | str | None) -> LazyImage:
    """Open a PNG or JPEG file; see :func:`open_image`.

    Palettes become colours and CMYK becomes RGB. 16-bit samples stay so. A JPEG photograph is turned
    as its EXIF orientation asks. The dots per inch are for printers: no pixel size is read.
    """
    import dask.array as da
    from dask.delayed import delayed

    with _opened(path) as picture:
        samples, dtype = _kind(path, picture)
        width, height = picture.size
        if _turned(picture):
            width, height = height, width
    shape = (height, width) if samples == 1 else (height, width, samples)
    choose_series(path, [path.name], lambda _: shape, series)
    level = choose_level(path, 1, level)
    stat = path.stat()
    read = delayed(_read, pure=True)(path, samples, dtype.str, (stat.st_mtime_ns, stat.st_size))
    data: da.Array = da.from_delayed(read, shape, dtype)  # type: ignore[no-untyped-call]
    return LazyImage(
        data=data,
        axes="yx" if samples == 1 else "yxc",
        channel_names=colour_names(samples),
        level=level,
        name=path.name,
        path=path,
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow fears decompression bombs; large mosaics are daily bread here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path, formats=("PNG", "JPEG"))
    except PermissionError:
        raise  # says what is wrong, and the file is not
    except Image.DecompressionBombError as exc:
        raise ImageFileError(
            f"{path} is too large to be read as one piece ({exc}). Save it as tiled TIFF or OME-Zarr."
        ) from exc
    except Exception as exc:
        raise ImageFileError(
            f"{path} cannot be read as PNG or JPEG ({exc}): it is damaged, cut off or something else "
            "under that name. Copy it again from its source."
        ) from exc
    with picture:
        yield picture


def _kind(path: Path, picture: Any) -> tuple[int, np.dtype[Any]]:
    """Return the number of samples and the data type that :func:`_read` gives."""
    header = _png_header(path)
    if header is not None and header[0] == 16:
        return _SAMPLES.get(header[1], 1), np.dtype(np.uint16)
    if picture.mode == "1":
        return 1, np.dtype(bool)
    return {"L": 1, "LA": 2, "RGBA": 4}.get(_mode(picture), 3), np.dtype(np.uint8)


def _mode(picture: Any) -> str:
    mode = str(picture.mode)
    if mode in {"L", "LA", "RGB", "RGBA"}:
        return mode
    return "RGBA" if mode == "PA" or (mode == "P" and "transparency" in picture.info) else "RGB"


def _png_header(path: Path) -> tuple[int, int] | None:
    with open(path, "rb") as file:
        head = file.read(26)
    return (head[24], head[25]) if len(head) == 26 and head.startswith(_SIGNATURE) else None


def _turned(picture: Any) -> bool:
    # A PNG may say it behind its pixels, and Pillow would decode them all to find out.
    if picture.format != "JPEG":
        return False
    return int(picture.getexif().get(_EXIF_ORIENTATION, 1)) in {5, 6, 7, 8}


def _read(path: Path, samples: int, dtype: str, _stamp: tuple[int, int]) -> NDArray[Any]:
    try:
        deep = np.dtype(dtype) == np.uint16
        pixels = _read_deep(path, samples) if deep else _read_plain(path, dtype)
    except ImageFileError:
        raise
    except Exception as exc:
        raise ImageFileError(
            f"{path} cannot be decoded ({exc}): it is damaged or cut off. Copy it again from its source."
        ) from exc
    return np.ascontiguousarray(pixels, dtype=dtype)


def _read_deep(path: Path, samples: int) -> NDArray[Any]:
    # Pillow reduces 16-bit colour to 8 bits without a word.
    import imagecodecs

    pixels: NDArray[Any] = imagecodecs.png_decode(path.read_bytes())
    return pixels[..., 0] if samples == 1 and pixels.ndim == 3 else pixels


def _read_plain(path: Path, dtype: str) -> NDArray[Any]:
    from PIL import ImageOps

    with _opened(path) as picture:
        mode = _mode(picture)
        upright = ImageOps.exif_transpose(picture) if picture.format == "JPEG" else picture
        if np.dtype(dtype) != np.dtype(bool) and upright.mode != mode:
            upright = upright.convert(mode)
        return np.asarray(upright)
