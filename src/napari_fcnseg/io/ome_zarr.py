"""The metadata of OME-Zarr: read 0.1 to 0.5, write 0.5."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from napari_fcnseg._shared.errors import ImageFileError
from napari_fcnseg.io.tiff_metadata import Sizes
from napari_fcnseg.io.units import normalize_unit

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
    common = _scale(entry, len(axes))
    datasets = entry["datasets"]
    scales = tuple(tuple(a * b for a, b in zip(_scale(d, len(axes)), common, strict=True)) for d in datasets)
    return Multiscale(
        name=str(entry.get("name") or "").strip("/"),
        letters=letters,
        units=tuple(normalize_unit(a.get("unit")) for a in axes),
        paths=tuple(str(d["path"]) for d in datasets),
        scales=scales,
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
    for transformation in owner.get("coordinateTransformations") or ():
        if transformation["type"] == "scale":
            values = tuple(float(v) for v in transformation["scale"])
            if len(values) != count:
                raise ValueError(f"a scale of {len(values)} values for {count} axes")
            return values
    return (1.0,) * count


def _channel_names(omero: Any) -> tuple[str, ...]:
    if not isinstance(omero, Mapping):
        return ()
    names = tuple(str(c.get("label") or "") for c in omero.get("channels") or ())
    return names if any(names) else ()


def label_attributes(
    name: str, axes: str, scale: Mapping[str, float], units: Mapping[str, str]
) -> dict[str, Any]:
    """Return the attributes of a label image of OME-Zarr 0.5 with one level at ``"0"``.

    ``image-label`` repeats the version: readers of 0.4 habits look for it there.
    """
    entries = []
    for axis in axes:
        described = {"name": axis, "type": _TYPES.get(axis, "space")}
        if axis in units:
            described["unit"] = units[axis]
        entries.append(described)
    transformation = {"type": "scale", "scale": [float(scale.get(a, 1.0)) for a in axes]}
    multiscale = {
        "name": name,
        "axes": entries,
        "datasets": [{"path": "0", "coordinateTransformations": [transformation]}],
    }
    return {"ome": {"version": "0.5", "multiscales": [multiscale], "image-label": {"version": "0.5"}}}
