"""What a TIFF file says about its pixels: size, unit, channel names."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

from napari_fcnseg.io.lazy_image import SPATIAL_AXES, colour_names
from napari_fcnseg.io.units import normalize_unit

Sizes = tuple[dict[str, float], dict[str, str]]

# Programs that know no pixel size write the one of a screen or a printer: 72 or
# 96 dots per inch, 1 per centimetre. No tag says that it is made up, so bare
# resolution tags count only below this size; OME, ImageJ and Aperio say it elsewhere.
_FINEST_UM, _COARSEST_UM = 1e-5, 100.0
_PHOTOMETRIC_RGB = {2, 6}  # RGB, and YCbCr, which decodes to RGB


def pixel_sizes(tiff: Any, number: int) -> Sizes:
    """Return ``(scale, units)`` of the finest level of a series.

    Read from, in this order: what :func:`save_labels` wrote, OME-XML, ImageJ's
    description, Aperio's ``MPP``, and the resolution tags. An axis without a
    believable size is absent: none given, not positive, no unit with one unit
    per pixel, or bare resolution tags coarser than 100 um.
    """
    series = tiff.series[number]
    own = _shaped(tiff, number)
    if "scale" in own:
        sizes = own.get("scale") or {}
        return clean_sizes({a: (sizes[a], (own.get("units") or {}).get(a)) for a in sizes})
    if series.kind == "ome":
        return _ome_sizes(tiff, number)
    if series.kind == "imagej":
        return _imagej_sizes(tiff)
    return believed_sizes(_slide_sizes(tiff, series.keyframe))


def _slide_sizes(tiff: Any, page: Any) -> dict[str, float]:
    """Return what Aperio's ``MPP``, or else the resolution tags, say in micrometres."""
    if tiff.is_svs:
        stated = re.search(r"\bMPP\s*=\s*(\d*\.?\d+)", page.description or "")
        return dict.fromkeys("yx", float(stated.group(1))) if stated else {}
    tag = page.tags.get("ResolutionUnit")
    per = {2: 25400.0, 3: 1e4}.get(int(tag.value) if tag is not None else 2)
    return {} if per is None else {a: size * per for a, size in _per_unit(page).items()}


def believed_sizes(stated_um: dict[str, float]) -> Sizes:
    """Keep pixel sizes in micrometres that a microscope can have: 0.01 nm to 100 um."""
    return clean_sizes({a: (v, "um") for a, v in stated_um.items() if _FINEST_UM <= v <= _COARSEST_UM})


def unbelieved(name: str, stated_um: dict[str, float]) -> str:
    """Return what is wrong with the pixel size that a slide states, and the cure; empty when nothing is."""
    if {"y", "x"} <= set(believed_sizes(stated_um)[0]):
        return ""
    cure = "give the pixel size in micrometres: spacing= (on the command line --spacing)"
    if not stated_um:
        return f"{name} states no pixel size; {cure}"
    got = " x ".join(f"{v:.4g}" for v in stated_um.values())
    return (
        f"{name} states pixels of {got} um, which is not believed (microscopes have {_FINEST_UM:g} to "
        f"{_COARSEST_UM:g} um); {cure}"
    )


def size_problem(name: str, tiff: Any, number: int) -> str:
    """Return what is wrong with the pixel size of a slide: a file of Aperio's, or one of several levels."""
    series = tiff.series[number]
    if not tiff.is_svs and len(series.levels) == 1:
        return ""
    stated = _slide_sizes(tiff, series.keyframe)
    if pixel_sizes(tiff, number)[0]:
        return ""
    return unbelieved(name, stated)


def clean_sizes(stated: dict[str, tuple[Any, Any]]) -> Sizes:
    """Keep the believable of ``{axis: (size, unit)}`` as ``(scale, units)``."""
    scale: dict[str, float] = {}
    units: dict[str, str] = {}
    for axis, (value, unit_text) in stated.items():
        try:
            size = float(value)
        except (TypeError, ValueError):
            continue
        unit = normalize_unit(unit_text)
        if axis not in SPATIAL_AXES or not math.isfinite(size) or size <= 0:
            continue
        if unit is None and size == 1.0:
            continue  # one pixel per pixel says nothing
        scale[axis] = size
        if unit is not None:
            units[axis] = unit
    return scale, units


def _shaped(tiff: Any, number: int) -> dict[str, Any]:
    if not tiff.is_shaped:
        return {}
    found = tiff.shaped_metadata or ()
    return dict(found[number]) if number < len(found) else {}


def _ome_image(tiff: Any, number: int) -> tuple[ElementTree.Element, str] | None:
    try:
        root = ElementTree.fromstring(tiff.ome_metadata)
    except (ElementTree.ParseError, TypeError):
        return None
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
    pixels = root.findall(f"{space}Image/{space}Pixels")
    return (pixels[number], space) if number < len(pixels) else None


def _ome_sizes(tiff: Any, number: int) -> Sizes:
    found = _ome_image(tiff, number)
    if found is None:
        return {}, {}
    pixels = found[0].attrib
    return clean_sizes(
        {
            a.lower(): (pixels.get(f"PhysicalSize{a}"), pixels.get(f"PhysicalSize{a}Unit", "µm"))
            for a in "ZYX"
            if f"PhysicalSize{a}" in pixels
        }
    )


def _imagej_sizes(tiff: Any) -> Sizes:
    stated = tiff.imagej_metadata or {}
    unit = stated.get("unit")
    across = _per_unit(tiff.pages.first if hasattr(tiff.pages, "first") else tiff.pages[0])
    # ImageJ counts pixels per `unit`, whatever the resolution unit tag says.
    return clean_sizes(
        {
            "z": (stated.get("spacing"), stated.get("zunit", unit)),
            "y": (across.get("y"), stated.get("yunit", unit)),
            "x": (across.get("x"), unit),
        }
    )


def _per_unit(page: Any) -> dict[str, float]:
    sizes = {}
    for axis, name in (("y", "YResolution"), ("x", "XResolution")):
        tag = page.tags.get(name)
        if tag is not None and tag.value[0] > 0:
            sizes[axis] = tag.value[1] / tag.value[0]
    return sizes


def channel_names(tiff: Any, number: int, channels: int) -> tuple[str, ...]:
    """Return a name for each of the channels, or an empty tuple."""
    series = tiff.series[number]
    samples = int(series.keyframe.samplesperpixel)
    if samples == channels and int(series.keyframe.photometric) in _PHOTOMETRIC_RGB:
        return colour_names(samples)
    names: list[str] = []
    if series.kind == "ome" and (found := _ome_image(tiff, number)) is not None:
        names = [c.get("Name", "") for c in found[0].findall(f"{found[1]}Channel")]
    elif series.kind == "imagej":
        labels = (tiff.imagej_metadata or {}).get("Labels") or []
        names = [str(label) for label in labels] if isinstance(labels, list) else []
    return tuple(names) if len(names) == channels and any(names) else ()
