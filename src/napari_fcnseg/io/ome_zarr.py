"""The metadata of OME-Zarr: read 0.1 to 0.5, write 0.4 and 0.5."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io.tiff_metadata import Sizes
from napari_fcnseg.io.units import normalize_unit

LabelClass: TypeAlias = tuple[int, str, tuple[int, int, int] | None]
"""Value, name and colour (red, green, blue: 0..255) of a class."""

_OLD_AXES = "tczyx"  # what 0.1 and 0.2 prescribe
_TYPES = {"t": "time", "c": "channel"}


@dataclass(frozen=True)
class Multiscale:
    """One entry of ``multiscales``.

    Attributes
    ----------
    name : str
        Its name, or an empty text.
    letters : str
        One of ``t c z y x`` per dimension, in the order of the file.
    units : tuple of (str or None)
        UDUNITS name of each dimension's length unit.
    paths : tuple of str
        Where the levels are, the finest first.
    scales : tuple of tuple of float
        Size of a pixel per level and dimension.
    origins : tuple of tuple of float
        Position of the first pixel's centre per level and dimension.
    channel_names : tuple of str
        From ``omero``; may be empty.
    axes_stated : bool
        False when the file names no axes though its version asks for them.
    """

    name: str
    letters: str
    units: tuple[str | None, ...]
    paths: tuple[str, ...]
    scales: tuple[tuple[float, ...], ...]
    origins: tuple[tuple[float, ...], ...]
    channel_names: tuple[str, ...] = ()
    axes_stated: bool = True

    def sizes(self, level: int) -> Sizes:
        """Return ``(scale, units)`` of a level, spatial axes only.

        An axis without unit whose finest level has size 1 counts pixels: absent.
        """
        scale: dict[str, float] = {}
        units: dict[str, str] = {}
        for i, axis in enumerate(self.letters):
            size, unit = self.scales[level][i], self.units[i]
            believable = math.isfinite(size) and size > 0
            if axis in "tc" or not believable or (unit is None and self.scales[0][i] == 1):
                continue
            scale[axis] = size
            if unit is not None:
                units[axis] = unit
        return scale, units

    def origin(self, level: int) -> dict[str, float]:
        """Return where the first pixel of a level lies, for the spatial axes where that is not 0."""
        places = zip(self.letters, self.origins[level], strict=True)
        return {a: place for a, place in places if a not in "tc" and place and math.isfinite(place)}


def multiscales_of(attributes: Mapping[str, Any], where: str) -> list[Multiscale]:
    """Return the multiscale images that a group's attributes describe.

    Parameters
    ----------
    attributes : mapping
        The group's attributes; those of 0.5 lie under ``"ome"``.
    where : str
        Named in messages.

    Raises
    ------
    ImageFileError
        When ``multiscales`` is there, but not as the specification has it.
    """
    ome = attributes.get("ome")
    stated = ome if isinstance(ome, Mapping) else attributes
    if "multiscales" not in stated:
        return []
    try:
        names = _channel_names(stated.get("omero"))
        return [_parse(entry, names, stated.get("version")) for entry in stated["multiscales"]]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as exc:
        raise ImageFileError(
            f"The OME-Zarr metadata of {where!r} are damaged ({type(exc).__name__}: {exc}): 'multiscales' "
            "needs 'axes' and 'datasets' with 'path' and 'coordinateTransformations'. Restore them from "
            "the source, or open one array by its own path."
        ) from exc


def _parse(entry: Mapping[str, Any], names: tuple[str, ...], version: Any) -> Multiscale:
    axes = [a if isinstance(a, Mapping) else {"name": a} for a in entry.get("axes") or _OLD_AXES]
    letters = "".join(_letter(a) for a in axes)
    count = len(axes)
    common, moved = _scale(entry, count), _translation(entry, count)
    datasets = entry["datasets"]
    scales = [_scale(d, count) for d in datasets]
    origins = [_translation(d, count) for d in datasets]
    return Multiscale(
        name=str(entry.get("name") or "").strip("/"),
        letters=letters,
        units=tuple(normalize_unit(a.get("unit")) for a in axes),
        paths=tuple(str(d["path"]) for d in datasets),
        scales=tuple(tuple(a * b for a, b in zip(s, common, strict=True)) for s in scales),
        origins=tuple(tuple(o * c + m for o, c, m in zip(s, common, moved, strict=True)) for s in origins),
        channel_names=names,
        # Versions 0.1 and 0.2, which may leave the version out as well, know these axes only.
        axes_stated=bool(entry.get("axes")) or entry.get("version", version) in (None, "0.1", "0.2"),
    )


def _letter(axis: Mapping[str, Any]) -> str:
    name, kind = str(axis["name"]).lower(), axis.get("type")
    letter = {"time": "t", "channel": "c"}.get(str(kind), name)
    if letter not in _OLD_AXES:
        raise ValueError(f"axis {axis['name']!r} of type {kind!r} is none of t, c, z, y, x")
    return letter


def _scale(owner: Mapping[str, Any], count: int) -> tuple[float, ...]:
    return _transformation(owner, "scale", count) or (1.0,) * count


def _translation(owner: Mapping[str, Any], count: int) -> tuple[float, ...]:
    return _transformation(owner, "translation", count) or (0.0,) * count


def _transformation(owner: Mapping[str, Any], kind: str, count: int) -> tuple[float, ...]:
    for transformation in owner.get("coordinateTransformations") or ():
        # The values may also lie in an array of their own ("path"), which no writer is known to do.
        if transformation["type"] == kind:
            values = tuple(float(v) for v in transformation[kind])
            if len(values) != count:
                raise ValueError(f"a {kind} of {len(values)} values for {count} axes")
            return values
    return ()


def _channel_names(omero: Any) -> tuple[str, ...]:
    if not isinstance(omero, Mapping):
        return ()
    names = tuple(str(c.get("label") or "") for c in omero.get("channels") or ())
    return names if any(names) else ()


def label_attributes(
    name: str,
    axes: str,
    levels: Sequence[Sequence[int]],
    scale: Mapping[str, float],
    units: Mapping[str, str],
    *,
    origin: Mapping[str, float] | None = None,
    version: str = "0.5",
    classes: Sequence[LabelClass] = (),
    source: str | None = None,
) -> dict[str, Any]:
    """Return the attributes of a label image, whose levels lie at ``"0"``, ``"1"``, ...

    Parameters
    ----------
    name : str
        Its name.
    axes : str
        One of ``t z y x`` per dimension.
    levels : sequence of sequence of int
        Shapes, the finest first.
    scale, units : mapping
        Pixel size of the finest level and its unit, of the axes that have one.
    origin : mapping, optional
        Position of the first pixel's centre on the finest level. Default: 0.
    version : {"0.5", "0.4"}, optional
        Of OME-Zarr.
    classes : sequence of (int, str, (int, int, int) or None), optional
        Value, name, and colour 0..255 of each class.
    source : str, optional
        Path from the label image to the image that it belongs to.

    Notes
    -----
    A pixel of a coarse level stands for the box of fine pixels that it
    covers: its size is the ratio of the shapes, and it lies, by the middle of
    that box, ``(ratio - 1) / 2`` fine pixels further than the first fine one.
    ``image-label`` repeats the version: readers of 0.4 habits look for it there.
    """
    multiscale = {
        "name": name,
        "axes": [_described(axis, units) for axis in axes],
        "datasets": [
            {
                "path": str(i),
                "coordinateTransformations": _placing(axes, levels[0], shape, scale, origin or {}),
            }
            for i, shape in enumerate(levels)
        ],
    }
    label = {"version": version, **_class_entries(classes)}
    if source is not None:
        label["source"] = {"image": source}
    if version == "0.5":
        return {"ome": {"version": "0.5", "multiscales": [multiscale], "image-label": label}}
    return {"multiscales": [{"version": version, **multiscale}], "image-label": label}


def _described(axis: str, units: Mapping[str, str]) -> dict[str, str]:
    described = {"name": axis, "type": _TYPES.get(axis, "space")}
    return {**described, "unit": units[axis]} if axis in units else described


def _placing(
    axes: str,
    fine: Sequence[int],
    shape: Sequence[int],
    scale: Mapping[str, float],
    origin: Mapping[str, float],
) -> list[dict[str, Any]]:
    ratios = [n / m for n, m in zip(fine, shape, strict=True)]
    sizes = [float(scale.get(a, 1.0)) for a in axes]
    first = [origin.get(a, 0.0) + (r - 1) / 2 * size for a, r, size in zip(axes, ratios, sizes, strict=True)]
    placing: list[dict[str, Any]] = [
        {"type": "scale", "scale": [r * size for r, size in zip(ratios, sizes, strict=True)]}
    ]
    if any(first):
        placing.append({"type": "translation", "translation": first})
    return placing


def _class_entries(classes: Sequence[LabelClass]) -> dict[str, Any]:
    colours = [
        {"label-value": int(value), "rgba": [*map(int, colour), 255]}
        for value, _, colour in classes
        if colour is not None
    ]
    named = [{"label-value": int(value), "class": name} for value, name, _ in classes]
    return {k: v for k, v in (("colors", colours), ("properties", named)) if v}
