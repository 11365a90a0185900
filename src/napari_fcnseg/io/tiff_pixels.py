"""The pixels of one level of one TIFF series, read by region.

tifffile offers a zarr store too, but the one for zarr 3 came only with
tifffile 2025.5.21, decodes on a single thread and cannot be sent to another
process. This reader parses the file again wherever it is unpickled, opens it
only while it reads, and decodes on the thread that asks.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import ImageFileError

Region: TypeAlias = tuple[slice, ...]


class ForeignLayoutError(ImageFileError):
    """A TIFF file whose pages make up the image in a way that is not understood."""


_JPEG = {6, 7, 34892, 33007}  # only their decoders know the keyword `jpegtables`


@contextmanager
def open_tiff(path: Path) -> Iterator[Any]:
    """Open a TIFF file and refuse what is damaged or cut off.

    Yields
    ------
    tifffile.TiffFile

    Raises
    ------
    ImageFileError
        When the file is not TIFF, or ends before its data do.
    """
    import tifffile

    try:
        tiff = tifffile.TiffFile(path)
    except PermissionError:
        raise  # says what is wrong, and the file is not
    except Exception as exc:
        raise ImageFileError(
            f"{path} cannot be read as TIFF ({exc}): it is damaged, cut off or something else under that "
            "name. Copy it again from its source."
        ) from exc
    with tiff:
        _check_page_chain(path, tiff)
        yield tiff


def _check_page_chain(path: Path, tiff: Any) -> None:
    # Pages form a linked list. tifffile only logs a link that leads nowhere and
    # then returns a shorter stack, which must not pass for the whole one.
    try:
        count = len(tiff.pages)
        place = tiff.pages.next_page_offset
        raw = b""
        if place is not None:
            tiff.filehandle.seek(place)
            raw = tiff.filehandle.read(tiff.tiff.offsetsize)
    except Exception as exc:
        raise _cut_off(path, f"its pages cannot be listed ({exc})") from exc
    if count == 0 or (place is not None and (len(raw) != tiff.tiff.offsetsize or any(raw))):
        raise _cut_off(path, f"the list of its pages breaks off after {count}")


def _cut_off(path: Path, what: str) -> ImageFileError:
    return ImageFileError(f"{path} is damaged or cut off: {what}. Copy it again from its source.")


class _PagePlace(NamedTuple):
    """Where the pieces of one page are."""

    number: int
    path: str
    offsets: Sequence[int]
    counts: Sequence[int]
    jpegtables: bytes | None


def _page_place(page: Any) -> _PagePlace:
    with _readable(page):
        return _PagePlace(
            number=page.index,
            path=page.parent.filehandle.path,
            offsets=tuple(page.dataoffsets),
            counts=tuple(page.databytecounts),
            jpegtables=page.jpegtables if page.keyframe.compression in _JPEG else None,
        )


def _decoder(frame: Any) -> tuple[Any, dict[str, Any]]:
    # Made while the file is open, because tifffile looks into it; used when it is not.
    with _readable(frame):
        extra = {"jpegheader": frame.jpegheader} if frame.compression in _JPEG else {}
        return frame.decode, extra


@contextmanager
def _readable(page: Any) -> Iterator[None]:
    # OME-TIFF spread over several files: tifffile has closed all but the first.
    handle = page.parent.filehandle
    if not handle.closed:
        yield
        return
    handle.open()
    try:
        yield
    finally:
        handle.close()


class TiffPixels:
    """Array-like view of one level of one series, for dask.

    Parameters
    ----------
    path : pathlib.Path
        The TIFF file.
    series, level : int
        tifffile's numbers of both.

    Attributes
    ----------
    shape, dtype, ndim
        As those of an array; the byte order is native.
    chunks : tuple of int
        Shape of the smallest piece that can be decoded by itself.
    """

    def __init__(self, path: Path, series: int, level: int) -> None:
        self._key = (path, series, level)
        with open_tiff(path) as tiff:
            source = tiff.series[series].levels[level]
            self.shape = tuple(int(n) for n in source.shape)
            self.ndim = len(self.shape)
            self.dtype = np.dtype(source.dtype).newbyteorder("=")
            self._keyframe = source.keyframe
            self._pages = [None if page is None else _page_place(page) for page in source.pages]
            self._decode, self._extra = _decoder(source.keyframe)
            self._offset: int | None = source.dataoffset
            parent = source.keyframe.parent  # with OME-TIFF it may be another file
            self._mapped = Path(parent.filehandle.path)
            self._stored = self.dtype.newbyteorder(parent.byteorder)
            self._check_layout()
            self._check_size()
        self.chunks = self._chunks()

    def __reduce__(self) -> tuple[type[TiffPixels], tuple[Path, int, int]]:
        return (TiffPixels, self._key)

    @property
    def missing_pages(self) -> int:
        """Pages that the file's own description promises and that are not there."""
        return sum(page is None for page in self._pages) if self._offset is None else 0

    def _check_layout(self) -> None:
        frame = self._keyframe
        lead = self.shape[: self.ndim - len(frame.shape)]
        fits = self.shape[len(lead) :] == tuple(frame.shape) and len(self._pages) == int(np.prod(lead))
        if self._offset is None and not (fits and len(frame.chunked) == len(frame.shape)):
            raise ForeignLayoutError(
                f"{self._key[0]} arranges pages of shape {frame.shape} into {self.shape} in a way that "
                "is not understood. Save it as plain TIFF, OME-TIFF or OME-Zarr first."
            )

    def _check_size(self) -> None:
        if self._offset is not None:
            end = self._offset + int(np.prod(self.shape)) * self.dtype.itemsize
            self._check_end(self._mapped, end)
            return
        ends: dict[str, int] = {}
        for page in self._pages:
            if page is not None and page.offsets:
                end = max(o + n for o, n in zip(page.offsets, page.counts, strict=False))
                ends[page.path] = max(end, ends.get(page.path, 0))
        for name, end in ends.items():
            self._check_end(Path(name), end)

    @staticmethod
    def _check_end(path: Path, end: int) -> None:
        size = os.path.getsize(path)
        if end > size:
            raise _cut_off(path, f"it should hold at least {end} bytes and has {size}")

    def _chunks(self) -> tuple[int, ...]:
        lead = (1,) * (self.ndim - len(self._keyframe.shape))
        if self._offset is not None:
            # Rows can be read one by one; samples stay together.
            rows = {"Y": 64, "X": 2048}
            page = tuple(
                rows.get(a, n if a == "S" else 1)
                for a, n in zip(self._keyframe.axes, self._keyframe.shape, strict=True)
            )
        else:
            page = _segment_shape(self._keyframe)
        return (*lead, *page)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        region = _as_region(index, self.shape)
        if self._offset is not None:
            mapped = np.memmap(self._mapped, self._stored, "r", self._offset, self.shape)
            return np.array(mapped[region], dtype=self.dtype)
        depth = self.ndim - len(self._keyframe.shape)
        lead, box = region[:depth], region[depth:]
        fill = getattr(self._keyframe, "nodata", 0) or 0
        out = np.full([s.stop - s.start for s in region], fill, dtype=self.dtype)
        for place in itertools.product(*(range(s.start, s.stop) for s in lead)):
            number = int(np.ravel_multi_index(place, self.shape[:depth])) if depth else 0
            page = self._pages[number]
            if page is not None:
                self._read_page(page, box, out[tuple(p - s.start for p, s in zip(place, lead, strict=True))])
        return out

    def _read_page(self, page: _PagePlace, box: Region, out: NDArray[Any]) -> None:
        unit = _segment_shape(self._keyframe)
        grid = tuple(self._keyframe.chunked)
        touched = [range(b.start // u, -(-b.stop // u)) for b, u in zip(box, unit, strict=True)]
        places = list(itertools.product(*touched))
        numbers = [int(np.ravel_multi_index(place, grid)) for place in places]
        for place, piece in zip(places, self._decoded(page, numbers), strict=True):
            if piece is not None:
                _paste(out, box, piece, [p * u for p, u in zip(place, unit, strict=True)])

    def _decoded(self, page: _PagePlace, numbers: Sequence[int]) -> Iterator[NDArray[Any] | None]:
        frame, extra = self._keyframe, dict(self._extra)
        if frame.compression in _JPEG:
            extra["jpegtables"] = page.jpegtables
        # Own handle: nothing stays open between reads, and threads do not wait for each other.
        with open(page.path, "rb") as file:
            for number in numbers:
                data = _segment_bytes(file, page, number)
                try:
                    piece = self._decode(data, number, **extra)[0]
                except Exception as exc:
                    raise ImageFileError(
                        f"{self._key[0]} cannot be decoded at page {page.number}, piece {number}: {exc}. "
                        "The file is damaged there, or its compression needs another imagecodecs."
                    ) from exc
                yield None if piece is None else _page_order(piece, frame)


def _segment_bytes(file: Any, page: _PagePlace, number: int) -> bytes | None:
    count = page.counts[number] if number < len(page.counts) else 0
    if not count:
        return None  # a piece that was never written: background by TIFF's convention
    file.seek(page.offsets[number])
    return bytes(file.read(count))


def _segment_shape(frame: Any) -> tuple[int, ...]:
    if frame.is_tiled:
        sizes = {"Z": max(frame.tiledepth, 1), "Y": frame.tilelength, "X": frame.tilewidth}
    else:
        sizes = {"Z": 1, "Y": min(frame.rowsperstrip, frame.imagelength), "X": frame.imagewidth}
    sizes["S"] = frame.samplesperpixel if frame.planarconfig == 1 else 1
    return tuple(max(int(sizes[a]), 1) for a in frame.axes)


def _page_order(piece: NDArray[Any], frame: Any) -> NDArray[Any]:
    # tifffile decodes to (depth, length, width, samples); a page has only some of
    # these axes, and separate samples come first.
    separate = "S" in frame.axes and frame.planarconfig == 2
    contiguous = "S" in frame.axes and not separate
    piece = piece if contiguous else piece[..., 0]
    piece = piece if "Z" in frame.axes else piece[0]
    return piece[None] if separate else piece


def _paste(out: NDArray[Any], box: Region, piece: NDArray[Any], origin: Sequence[int]) -> None:
    target, source = [], []
    for side, start, size in zip(box, origin, piece.shape, strict=True):
        low, high = max(side.start, start), min(side.stop, start + size)
        if high <= low:
            return
        target.append(slice(low - side.start, high - side.start))
        source.append(slice(low - start, high - start))
    out[tuple(target)] = piece[tuple(source)]


def _as_region(index: Any, shape: tuple[int, ...]) -> Region:
    # dask asks for whole blocks: plain slices with step one.
    index = index if isinstance(index, tuple) else (index,)
    index = (*index, *(slice(None),) * (len(shape) - len(index)))
    return tuple(slice(*s.indices(n)[:2]) for s, n in zip(index, shape, strict=True))
