"""Which series, which level, which axes, and what a block of a lazy array holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from napari_fcnseg._shared.errors import ImageFileError, nearest_name
from napari_fcnseg.io.location import Location

# Asked only for what is listed: a plate has thousands of images, each with its own metadata file.
ShapeOf: TypeAlias = Callable[[int], tuple[int, ...]]

# 4 Mi pixels: large enough that the cost of a task does not show,
# small enough that a dozen of them in flight fit anywhere.
_BLOCK_PIXELS = 2**22
_LISTED = 20

_AXIS_WORDS = {
    "time": "t",
    "frame": "t",
    "channel": "c",
    "channels": "c",
    "depth": "z",
    "plane": "z",
    "row": "y",
    "height": "y",
    "column": "x",
    "col": "x",
    "width": "x",
}
_AXES_BY_NDIM = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}


def choose_series(path: Location, names: Sequence[str], shape_of: ShapeOf, series: int | str | None) -> int:
    """Return the index of the series asked for.

    Raises
    ------
    ImageFileError
        When there are several and none was chosen, or the chosen one is not
        there. The message lists them all.
    """
    if series is None:
        if len(names) == 1:
            return 0
        raise ImageFileError(
            f"{path.name} holds {len(names)} images, and none was chosen:\n{_listing(names, shape_of)}\n"
            "Choose one by index or by name, such as series=0 (on the command line --series 0)."
        )
    if isinstance(series, str):
        return _series_by_name(path, names, shape_of, series)
    if 0 <= series < len(names):
        return series
    raise ImageFileError(
        f"{path.name} has no series {series}: it holds {len(names)}, numbered 0 to {len(names) - 1}:\n"
        f"{_listing(names, shape_of)}"
    )


def _series_by_name(path: Location, names: Sequence[str], shape_of: ShapeOf, wanted: str) -> int:
    found = [i for i, name in enumerate(names) if name == wanted]
    found = found or [i for i, name in enumerate(names) if name.lower() == wanted.lower()]
    if len(found) == 1:
        return found[0]
    problem = "has no series named" if not found else f"has {len(found)} series named"
    hint = nearest_name(wanted, names) if not found else ""
    cure = "Choose one of these by index or by name" if not found else "Choose one of these by index"
    raise ImageFileError(f"{path.name} {problem} {wanted!r}.{hint} {cure}:\n{_listing(names, shape_of)}")


def _listing(names: Sequence[str], shape_of: ShapeOf) -> str:
    lines = [f"  series={i}: {name!r}, shape {shape_of(i)}" for i, name in enumerate(names[:_LISTED])]
    if len(names) > _LISTED:
        lines.append(f"  ... and {len(names) - _LISTED} more")
    return "\n".join(lines)


def choose_level(path: Location, count: int, level: int | None) -> int:
    """Return the level asked for, 0 for None; ImageFileError when it is not there."""
    chosen = 0 if level is None else level
    if 0 <= chosen < count:
        return chosen
    held = "one resolution level, level=0" if count == 1 else f"{count} levels, level=0 to {count - 1}"
    raise ImageFileError(f"{path.name} has no level {level}: it holds {held}.")


def spelled_axes(names: Iterable[object]) -> str:
    """Return the letters of ``tczyx`` that the names of dimensions mean, or an empty text."""
    words = [str(name or "").lower() for name in names]
    letters = "".join(_AXIS_WORDS.get(w, w if len(w) == 1 else "?") for w in words)
    usable = len(set(letters)) == len(letters) and set("yx") <= set(letters) <= set("tczyx")
    return letters if usable else ""


def likely_axes(path: Location, shape: tuple[int, ...]) -> str:
    """Return the axes that an array of a shape mostly has, where nothing states them."""
    if len(shape) == 3 and shape[-1] in (3, 4) and min(shape[:2]) > 4:
        return "yxc"
    if len(shape) in _AXES_BY_NDIM:
        return _AXES_BY_NDIM[len(shape)]
    raise ImageFileError(
        f"{path} is an array of shape {shape}: images have 2 to 5 dimensions. Save the part to work on."
    )


def block_shape(shape: Sequence[int], unit: Sequence[int], axes: str) -> tuple[int, ...]:
    """Return a block made of whole file chunks, with about four million pixels.

    Parameters
    ----------
    shape : sequence of int
        Shape of the array.
    unit : sequence of int
        Shape of the file's own chunk, tile or strip; blocks are multiples of it
        so that nothing is decoded twice.
    axes : str
        Letters of the dimensions; y and x grow in turn, then z.
    """
    block = [min(max(u, 1), max(n, 1)) for u, n in zip(unit, shape, strict=True)]
    for group in ("yx", "z"):
        growing = [axes.index(a) for a in group if a in axes]
        while growing:
            i = min(growing, key=lambda k: block[k])
            others = _product(block) // block[i]
            if block[i] >= shape[i] or 2 * block[i] * others > _BLOCK_PIXELS:
                growing.remove(i)
            else:
                block[i] = min(2 * block[i], shape[i])
    return tuple(block)


def _product(values: Sequence[int]) -> int:
    total = 1
    for value in values:
        total *= value
    return total
