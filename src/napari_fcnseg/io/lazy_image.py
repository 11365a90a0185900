"""The one kind of image that every reader returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io.units import in_micrometres

if TYPE_CHECKING:
    import dask.array as da

SPATIAL_AXES = "zyx"
RGB_NAMES = ("red", "green", "blue")
RGBA_NAMES = (*RGB_NAMES, "alpha")


@dataclass(frozen=True, eq=False, repr=False)
class LazyImage:
    """An opened image: nothing of it is read until it is asked for.

    Attributes
    ----------
    data : dask.array.Array
        The pixels of one resolution level, in the file's own data type and
        native byte order.
    axes : str
        One letter of ``t c z y x`` per dimension, such as ``"tczyx"`` or
        ``"yxc"``. Colour samples are channels too.
    channel_names : tuple of str
        One name per channel, or empty when the file gives none. Colour samples
        are called ``("red", "green", "blue")``, with ``"alpha"`` where there is one.
    scale : dict of str to float
        Size of a pixel of this level along each spatial axis, in `units`. An
        axis is absent when the file does not state a believable size.
    units : dict of str to str
        UDUNITS long name per spatial axis, such as ``"micrometer"``.
    levels : tuple of tuple of int
        Shapes of all resolution levels, the finest first, in the order of `axes`.
    level : int
        The level that `data` holds.
    name : str
        The image's own name, or that of its file.
    path : pathlib.Path or None
        Where it was opened from; None for what lies at a URL.
    axes_stated : bool
        False when the file does not say what its axes are: `axes` is then only
        the likely reading, which :func:`napari_fcnseg.segment` does not take
        for granted.
    pixels : object or None
        What `data` was made from, for readers that do without a graph of dask:
        same axes, ``shape``, ``dtype`` and ``chunks`` (what can be decoded by
        itself), read by a tuple of slices with step 1, by any number of
        threads; can be pickled. None where there is only `data`.
    origin : dict of str to float
        Position of the centre of the first pixel of this level, in `units`,
        along the spatial axes where it is not 0.
    group : pathlib.Path or None
        Folder of the OME-Zarr image, whose labels lie below it; None for other formats.
    bounds_offset : tuple of int
        Where the scanned part of a slide begins, y and x in pixels of the
        finest level. Some viewers count from there.
    size_problem : str
        What the file says about its pixel size that cannot be used; empty when there is nothing to say.
    reopen : callable or None
        Opens another level; see :meth:`at_level`.

    See Also
    --------
    open_image : Opens one.

    Examples
    --------
    >>> import dask.array as da
    >>> image = LazyImage(da.zeros((8, 9)), "yx", scale={"x": 500.0}, units={"x": "nanometer"})
    >>> image.shape, image.spacing_um("x"), image.spacing_um("y")
    ((8, 9), 0.5, None)
    """

    data: da.Array
    axes: str
    channel_names: tuple[str, ...] = ()
    scale: dict[str, float] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    levels: tuple[tuple[int, ...], ...] = ()
    level: int = 0
    name: str = ""
    path: Path | None = None
    axes_stated: bool = True
    pixels: Any = None
    origin: dict[str, float] = field(default_factory=dict)
    group: Path | None = None
    bounds_offset: tuple[int, int] = (0, 0)
    size_problem: str = ""
    reopen: Callable[[int], LazyImage] | None = None

    def __post_init__(self) -> None:
        if len(self.axes) != self.data.ndim:
            raise ImageFileError(
                f"The axes {self.axes!r} name {len(self.axes)} dimensions, but the data have "
                f"{self.data.ndim}: give one letter of 'tczyx' for each."
            )
        if len(set(self.axes)) != len(self.axes) or not set("yx") <= set(self.axes) <= set("tczyx"):
            raise ImageFileError(
                f"The axes {self.axes!r} cannot be used: each of 't', 'c', 'z', 'y', 'x' may stand "
                "once, and 'y' and 'x' must be there."
            )
        if not self.levels:
            object.__setattr__(self, "levels", (self.shape,))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of this level, in the order of `axes`."""
        return tuple(int(n) for n in self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of a pixel."""
        dtype: np.dtype[Any] = self.data.dtype
        return dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return int(self.data.ndim)

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Sizes of the dask blocks along each axis."""
        return tuple(self.data.chunks)

    @property
    def channel_axis(self) -> int | None:
        """Position of the channels in `axes`; None when there are none."""
        return self.axes.index("c") if "c" in self.axes else None

    @property
    def spatial_axes(self) -> str:
        """The letters of `axes` that are space, in their order."""
        return "".join(a for a in self.axes if a in SPATIAL_AXES)

    @property
    def rgb(self) -> bool:
        """Whether the channels are the samples of a colour image."""
        return self.channel_names in (RGB_NAMES, RGBA_NAMES)

    def spacing_um(self, axis: str) -> float | None:
        """Return the pixel size along an axis in micrometres.

        Parameters
        ----------
        axis : str
            ``"z"``, ``"y"`` or ``"x"``.

        Returns
        -------
        float or None
            None when the file states no size, or one without a known unit.
        """
        size = self.scale.get(axis)
        return None if size is None else in_micrometres(size, self.units.get(axis))

    def at_level(self, level: int) -> LazyImage:
        """Return the same image on another resolution level, with the pixel size of that one.

        Parameters
        ----------
        level : int
            0 is the finest.

        Raises
        ------
        ImageFileError
            When there is no such level, or this image was not opened from a file.
        """
        if level == self.level:
            return self
        if self.reopen is None:
            raise ImageFileError(
                f"{self.name or 'the image'} was not opened from a file, so level {level} cannot be read; "
                f"it is on level {self.level}. Open it with open_image."
            )
        return self.reopen(level)

    def __getitem__(self, index: Any) -> da.Array:
        part: da.Array = self.data[index]
        return part

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.data, dtype=dtype)

    def __dask_tokenize__(self) -> object:
        return (type(self).__name__, self.data.name, self.axes)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{a}={n}" for a, n in zip(self.axes, self.shape, strict=True))
        facts = [f"{self.name!r}" if self.name else "", f"({sizes})", str(self.dtype)]
        if not self.axes_stated:
            facts.insert(2, f"axes {self.axes!r} (assumed)")
        if self.channel_names:
            facts.append("channels " + "/".join(self.channel_names))
        pixel = [
            f"{a} {self.scale[a]:.4g} {self.units.get(a, '')}".rstrip()
            for a in self.spatial_axes
            if a in self.scale
        ]
        facts.append("pixel " + ", ".join(pixel) if pixel else "no pixel size")
        if len(self.levels) > 1:
            facts.append(f"level {self.level} of {len(self.levels)}")
        return f"<LazyImage {'; '.join(f for f in facts if f)}>"


def colour_names(samples: int) -> tuple[str, ...]:
    """Return the names of three or four colour samples, else nothing."""
    return {3: RGB_NAMES, 4: RGBA_NAMES}.get(samples, ())
