"""Pictures of several resolution levels, in files that state a pixel size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from tests.engine.small import texture

# The model of the tests has 0.5 um: level 2 of a slide of 0.125 um.
SIZE = 0.125
# Statistics come from the finest level; fixed ones make levels comparable.
FIXED: dict[str, Any] = {"method": "fixed", "offset": (40.0,), "scale": (170.0,)}


def halved(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the next level: the mean of 2 x 2 pixels."""
    rows, columns = pixels.shape[0] // 2, pixels.shape[1] // 2
    parts = pixels.reshape(rows, 2, columns, 2, *pixels.shape[2:])
    made: NDArray[np.uint8] = parts.mean((1, 3)).astype(np.uint8)
    return made


def levels_of(finest: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """Return an image and its coarser levels."""
    levels = [finest]
    for _ in range(count - 1):
        levels.append(halved(levels[-1]))
    return levels


def picture(rows: int = 256, columns: int = 320) -> NDArray[np.uint8]:
    """Return what has objects on its third level."""
    made: NDArray[np.uint8] = (texture(rows, columns, seed=5, smooth=6) * 255).clip(0, 255).astype(np.uint8)
    return made


def write_pyramid(
    path: Path, levels: list[NDArray[np.uint8]], size: float | None = SIZE, unit: str = "µm"
) -> Path:
    """Write an OME-TIFF whose levels are SubIFDs."""
    colours = levels[0].ndim == 3
    metadata: dict[str, Any] = {"axes": "YXS" if colours else "YX"}
    for axis in "XY" if size else "":
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    options: dict[str, Any] = {"photometric": "rgb" if colours else "minisblack", "tile": (64, 64)}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(levels[0], subifds=len(levels) - 1, metadata=metadata, **options)
        for level in levels[1:]:
            file.write(level, subfiletype=1, **options)
    return path
