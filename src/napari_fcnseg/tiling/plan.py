"""Where the tiles of an image lie: frozen numbers, no pixels.

One axis of an image with four tiles, stride 16 and a halo of 32; the network
pads itself, so reading stops at the image's own (padded) border::

    image          |0 .......... 64 ......... 128 ......... 192 ....... 250|
    padded to 256  |0 .......... 64 ......... 128 ......... 192 ....... 250 . 256|
    core           [0         64)[64       128)[128       192)[192      250)
    read of tile 1           [32                      160)
    keep of tile 1 (in its own output)   [32 ... 96)

Every core begins on a multiple of the stride and every read begins where the
whole padded image would put a pooling window, so that a tile's scores are
those of the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from napari_fcnseg._shared.errors import InputError, TilingError
from napari_fcnseg._shared.protocols import Box, Margins


@dataclass(frozen=True)
class Tile:
    """One tile of a plan.

    Attributes
    ----------
    index : int
        Place in the order of the plan.
    leading : tuple of int
        Index along the leading axes (time, position).
    core : Box
        What this tile writes, in pixels of the image. Cores do not overlap.
    read : Box
        What it reads. Negative or beyond the image means mirrored pixels.
    keep : Box
        `core` in pixels of the network's output for `read`.
    """

    index: int
    leading: tuple[int, ...]
    core: Box
    read: Box
    keep: Box

    @property
    def read_shape(self) -> tuple[int, ...]:
        """Spatial shape of what is read."""
        return tuple(stop - start for start, stop in self.read)


@dataclass(frozen=True)
class TilePlan:
    """The tiling of one image; make it with :func:`plan_tiles`.

    Attributes
    ----------
    shape : tuple of int
        Spatial shape of the image, pixels.
    leading : tuple of int
        Lengths of the leading axes, which are iterated.
    core_shape : tuple of int
        Largest shape of what one tile writes.
    stride : tuple of int
        Cores begin on multiples of it.
    halo, border : tuple of (int, int)
        See :class:`~napari_fcnseg._shared.protocols.Segmenter`.
    region : tuple of (int, int)
        The part of the image that the tiles cover.
    """

    shape: tuple[int, ...]
    core_shape: tuple[int, ...]
    stride: tuple[int, ...]
    halo: Margins
    border: Margins
    region: Box
    leading: tuple[int, ...] = field(default=())

    @property
    def padded(self) -> Box:
        """The whole image after padding: up to the stride at the end, plus the border."""
        return tuple(
            (-before, round_up(length, stride) + after)
            for length, stride, (before, after) in zip(self.shape, self.stride, self.border, strict=True)
        )

    @property
    def _starts(self) -> tuple[range, ...]:
        return tuple(
            range(start - start % stride, stop, core)
            for (start, stop), stride, core in zip(self.region, self.stride, self.core_shape, strict=True)
        )

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of tiles along each spatial axis."""
        return tuple(len(starts) for starts in self._starts)

    def __len__(self) -> int:
        return math.prod(self.leading) * math.prod(self.grid)

    def __iter__(self) -> Iterator[Tile]:
        """Iterate in C order: leading axes first, then space."""
        leading = product(*map(range, self.leading))
        cells = list(product(*self._starts))
        for index, (lead, corner) in enumerate(product(leading, cells)):
            yield self._tile(index, lead, corner)

    def _tile(self, index: int, leading: tuple[int, ...], corner: tuple[int, ...]) -> Tile:
        sides = [self._side(axis, start) for axis, start in enumerate(corner)]
        core, read, keep = (tuple(side[i] for side in sides) for i in range(3))
        return Tile(index, leading, core, read, keep)

    def _side(self, axis: int, start: int) -> Box:
        """Return core, read and keep of the tile that begins at `start` on one axis."""
        first, last = self.region[axis]
        low, high = self.padded[axis]
        (before, after), lost = self.halo[axis], self.border[axis][0]
        stop = min(start + self.core_shape[axis], round_up(last, self.stride[axis]))
        core = max(start, first), min(stop, last)
        read = max(start - before, low), min(stop + after, high)
        origin = read[0] + lost
        return core, read, (core[0] - origin, core[1] - origin)

    @property
    def redundancy(self) -> float:
        """Pixels read for each pixel written, over the whole plan."""
        read = 1.0
        for axis, starts in enumerate(self._starts):
            sides = [self._side(axis, start) for start in starts]
            read *= sum(r[1] - r[0] for _, r, _ in sides) / sum(c[1] - c[0] for c, _, _ in sides)
        return read

    def describe(self) -> str:
        """Return a line such as ``"12 tiles of 1024 x 1024, halo 96, 1.22x redundant"``."""
        tiles = f"{len(self):,} tile{'s' if len(self) != 1 else ''}"
        core = " x ".join(map(str, self.core_shape))
        halo = max(max(pair) for pair in self.halo)
        return f"{tiles} of {core}, halo {halo}, {self.redundancy:.2f}x redundant"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TilePlan:
        """Rebuild a plan from what :meth:`to_dict` returned, also after JSON."""
        return cls(**{name: _tupled(value) for name, value in data.items()})


def round_up(value: int, step: int) -> int:
    """Return the least multiple of `step` that is not below `value`."""
    return -(-value // step) * step


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list | tuple) else int(value)


def plan_tiles(
    shape: Sequence[int],
    *,
    core_shape: Sequence[int],
    stride: Sequence[int],
    halo: Margins,
    border: Margins | None = None,
    leading: Sequence[int] = (),
    region: Box | None = None,
) -> TilePlan:
    """Lay tiles over an image.

    Parameters
    ----------
    shape : sequence of int
        Spatial shape of the image, 1 to 3 axes, pixels.
    core_shape : sequence of int
        What one tile writes; rounded up to multiples of the stride.
    stride : sequence of int
        Stride of the network.
    halo : sequence of (int, int)
        Pixels read before and after each core.
    border : sequence of (int, int), optional
        Pixels that the network loses on each side; none by default.
    leading : sequence of int
        Lengths of axes to iterate over.
    region : sequence of (int, int), optional
        Cover only this box of the image; the tiles stay on the same grid.

    Returns
    -------
    TilePlan

    Raises
    ------
    InputError
        If an axis is empty, or the region does not lie in the image.
    TilingError
        If sizes are not positive, or halo and border are not in step with the stride.

    Examples
    --------
    >>> plan = plan_tiles((250,), core_shape=(64,), stride=(16,), halo=((32, 32),))
    >>> plan.describe()
    '4 tiles of 64, halo 32, 1.79x redundant'
    >>> list(plan)[1]
    Tile(index=1, leading=(), core=((64, 128),), read=((32, 160),), keep=((32, 96),))
    """
    shape, leading = tuple(shape), tuple(leading)
    border = border or ((0, 0),) * len(shape)
    region = region or tuple((0, length) for length in shape)
    _check_lengths(shape, core_shape, stride, halo, border, region)
    _check_image(shape, leading, region)
    for axis, sides in enumerate(zip(stride, core_shape, halo, border, strict=True)):
        _check_steps(axis, *sides)
    core_shape = tuple(round_up(core, step) for core, step in zip(core_shape, stride, strict=True))
    plan = {"shape": shape, "leading": leading, "core_shape": core_shape, "stride": tuple(stride)}
    return TilePlan.from_dict({**plan, "halo": halo, "border": border, "region": region})


def _check_lengths(shape: tuple[int, ...], *per_axis: Sequence[Any]) -> None:
    if not 1 <= len(shape) <= 3 or any(len(values) != len(shape) for values in per_axis):
        got = ", ".join(str(len(values)) for values in (shape, *per_axis))
        raise TilingError(
            f"got {got} axes for shape, core, stride, halo, border and region; give 1 to 3 of each."
        )


def _check_image(shape: tuple[int, ...], leading: tuple[int, ...], region: Box) -> None:
    if min(shape + leading) < 1:
        raise InputError(
            f"the image has a zero-sized axis (shape {leading + shape}); there is nothing to segment."
        )
    for (start, stop), length in zip(region, shape, strict=True):
        if not 0 <= start < stop <= length:
            raise InputError(f"the region {start}:{stop} does not lie in an axis of {length} pixels.")


def _check_steps(axis: int, stride: int, core: int, halo: tuple[int, int], border: tuple[int, int]) -> None:
    if stride < 1 or core < 1 or min(halo) < 0 or min(border) < 0:
        raise TilingError(
            f"axis {axis}: stride {stride} and core {core} must be positive, "
            f"halo {halo} and border {border} not negative."
        )
    for reach, lost in zip(halo, border, strict=True):
        if reach < lost or (reach - lost) % stride:
            raise TilingError(
                f"axis {axis}: a halo of {reach} is not the border of {lost} plus a multiple "
                f"of the stride {stride}, "
                "so tiles would not line up with the whole image; let the model derive it."
            )
