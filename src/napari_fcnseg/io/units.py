"""Length units: the many spellings of files, and the one that OME-Zarr wants."""

from __future__ import annotations

_MICROMETRES = {
    "angstrom": 1e-4,
    "picometer": 1e-6,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "decimeter": 1e5,
    "meter": 1e6,
    "kilometer": 1e9,
    "inch": 25400.0,
    "foot": 304800.0,
    "yard": 914400.0,
}

_SPELLINGS = {
    "å": "angstrom",
    "pm": "picometer",
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",
    "μm": "micrometer",
    "\\u00b5m": "micrometer",
    "micron": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "dm": "decimeter",
    "m": "meter",
    "km": "kilometer",
    "in": "inch",
    "inches": "inch",
    "ft": "foot",
    "yd": "yard",
}


def normalize_unit(text: object) -> str | None:
    """Return the UDUNITS long name of a length unit, or None.

    Parameters
    ----------
    text : object
        What the file says: ``"um"``, ``"µm"``, ``"microns"``, ``"micrometre"``, ...

    Returns
    -------
    str or None
        ``"micrometer"`` and the like; None for ``"pixel"``, an empty text and
        whatever is not a length.
    """
    name = str(text or "").strip().lower().replace("metre", "meter")
    name = _SPELLINGS.get(name, name)
    if name not in _MICROMETRES:
        name = name.removesuffix("s")
        name = _SPELLINGS.get(name, name)
    return name if name in _MICROMETRES else None


def in_micrometres(value: float, unit: str | None) -> float | None:
    """Return a length in micrometres; None when the unit is not known."""
    factor = _MICROMETRES.get(unit or "")
    return None if factor is None else value * factor


def convert_length(value: float, unit: str, target: str) -> float:
    """Return a length given in `unit` in `target`, both UDUNITS long names."""
    return value if unit == target else value * _MICROMETRES[unit] / _MICROMETRES[target]
