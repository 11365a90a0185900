"""The writers of label images: TIFF, OME-TIFF, OME-Zarr. All get a path that nobody sees yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.io.label_pyramid import pyramid_shapes, write_coarser_levels
from napari_fcnseg.io.label_store import create_label_store
from napari_fcnseg.io.units import convert_length
from napari_fcnseg.tiling.shards import SHARD

UINT32_MAX = 2**32 - 1

# Offsets of classic TIFF have 32 bits; leave room for tags and descriptions.
_CLASSIC_BYTES = 2**32 - 2**25
_TILED_ABOVE = 2048
_TILE = (512, 512)
_SHORT_UNITS = {
    "angstrom": "Å",
    "picometer": "pm",
    "nanometer": "nm",
    "micrometer": "µm",
    "millimeter": "mm",
    "centimeter": "cm",
    "decimeter": "dm",
    "meter": "m",
    "kilometer": "km",
    "inch": "in",
    "foot": "ft",
    "yard": "yd",
}


@dataclass(frozen=True)
class Geometry:
    """Axes of the labels, and the pixel size of each as far as it is known."""

    axes: str
    scale: dict[str, float]
    units: dict[str, str]


def check_range(low: int, high: int) -> None:
    """Refuse labels that no unsigned 32-bit number can be."""
    if low < 0 or high > UINT32_MAX:
        raise InputError(
            f"Labels from {low} to {high}; allowed are 0 (background) to {UINT32_MAX}. Renumber them, for "
            "instance with skimage.segmentation.relabel_sequential."
        )


def write_tiff(path: Path, labels: NDArray[Any], geometry: Geometry, _name: str) -> None:
    """Write TIFF: an ImageJ hyperstack where ImageJ can hold it, else one described by JSON."""
    import tifffile

    options = _imagej_options(geometry)
    # ImageJ knows no 32-bit whole numbers, and no BigTIFF.
    if labels.dtype == np.uint16 and labels.nbytes <= _CLASSIC_BYTES and options is not None:
        tifffile.imwrite(path, labels, imagej=True, photometric="minisblack", **options)
    else:
        tifffile.imwrite(path, labels, **_storage(labels), **_described_options(geometry))


def write_ome_tiff(path: Path, labels: NDArray[Any], geometry: Geometry, name: str) -> None:
    """Write OME-TIFF with physical pixel sizes."""
    import tifffile

    metadata: dict[str, Any] = {"axes": geometry.axes.upper(), "Name": name}
    for axis, size in geometry.scale.items():
        # "reference frame" is OME's word for a size without unit; nothing would mean um.
        unit = _SHORT_UNITS.get(geometry.units.get(axis, ""), "reference frame")
        metadata[f"PhysicalSize{axis.upper()}"] = size
        metadata[f"PhysicalSize{axis.upper()}Unit"] = unit
    tifffile.imwrite(path, labels, ome=True, metadata=metadata, **_storage(labels))


def _storage(labels: NDArray[Any]) -> dict[str, Any]:
    tiled = max(labels.shape[-2:]) > _TILED_ABOVE
    return {
        "bigtiff": labels.nbytes > _CLASSIC_BYTES,
        "compression": "zlib",
        "photometric": "minisblack",
        **({"tile": _TILE} if tiled else {}),
    }


def _imagej_options(geometry: Geometry) -> dict[str, Any] | None:
    """Return tifffile's options, or None where ImageJ could not say the pixel size."""
    scale, units = geometry.scale, geometry.units
    metadata: dict[str, Any] = {"axes": geometry.axes.upper()}
    if not scale:
        return {"metadata": metadata}
    # One unit for all axes, and width and height are needed before a depth.
    if not {"y", "x"} <= set(scale) or (units and set(units) != set(scale)):
        return None
    unit = units.get("x")
    sizes = {a: convert_length(v, units[a], unit) if unit else v for a, v in scale.items()}
    if unit:
        # ImageJ reads "um"; the description must be ASCII.
        metadata["unit"] = {"micrometer": "um", "angstrom": "angstrom"}.get(unit, _SHORT_UNITS[unit])
    if "z" in sizes:
        metadata["spacing"] = sizes["z"]
    return {"metadata": metadata, "resolution": (1 / sizes["x"], 1 / sizes["y"])}


def _described_options(geometry: Geometry) -> dict[str, Any]:
    metadata = {"axes": geometry.axes.upper(), "scale": geometry.scale, "units": geometry.units}
    if not {"y", "x"} <= set(geometry.units):
        return {"metadata": metadata}
    per = [1 / convert_length(geometry.scale[a], geometry.units[a], "centimeter") for a in "xy"]
    return {"metadata": metadata, "resolution": tuple(per), "resolutionunit": "CENTIMETER"}


def write_zarr(path: Path, labels: Any, geometry: Geometry, name: str) -> None:
    """Write a label image of OME-Zarr 0.5 with its levels; dask arrays are streamed block by block."""
    stream = None if isinstance(labels, np.ndarray) else _checked_stream(labels)
    space = sum(a != "t" for a in geometry.axes)
    arrays = create_label_store(
        path,
        axes=geometry.axes,
        levels=pyramid_shapes(labels.shape, geometry.axes),
        dtype=labels.dtype if stream is None else stream.dtype,
        shard_shape=(1,) * (len(geometry.axes) - space) + (SHARD[space],) * space,
        name=name.removesuffix(".zarr").removesuffix(".ome"),
        scale=geometry.scale,
        units=geometry.units,
    )
    if stream is None:
        arrays[0][...] = labels
    else:
        _store(stream, arrays[0])
    write_coarser_levels(arrays)


def _store(stream: Any, target: Any) -> None:
    import dask.array as da

    # Two blocks that share a file would overwrite each other's half.
    unit = target.shards or target.chunks
    aligned = all(
        sum(sizes[:i]) % edge == 0
        for sizes, edge in zip(stream.chunks, unit, strict=True)
        for i in range(1, len(sizes))
    )
    da.store(stream if aligned else stream.rechunk(unit), target, lock=False)


def _checked_stream(labels: Any) -> Any:
    if labels.dtype.kind == "b":
        return labels.astype(np.uint8)
    if labels.dtype.kind == "u" and labels.dtype.itemsize <= 4:
        return labels.astype(labels.dtype.newbyteorder("="))
    return labels.map_blocks(_checked_block, dtype=np.uint32, meta=np.empty((0,) * labels.ndim, np.uint32))


def _checked_block(block: NDArray[Any]) -> NDArray[np.uint32]:
    if block.size:
        check_range(int(block.min()), int(block.max()))
    return block.astype(np.uint32)
