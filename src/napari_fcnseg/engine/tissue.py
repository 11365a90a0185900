"""Where a slide has tissue: found on a low level, asked for on any grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.source import Source
from napari_fcnseg.preprocess.resampling import Resampling
from napari_fcnseg.preprocess.tissue import LARGEST, choose_low_level, tissue_mask
from napari_fcnseg.refine.stitching import blocks, slices


@dataclass(frozen=True, eq=False)
class Tissue:
    """The tissue of a slide; looked for when first asked.

    Attributes
    ----------
    source : Source
        A level of the slide, without leading axes.
    """

    source: Source

    def __getstate__(self) -> dict[str, Any]:
        # Other processes get what was found, not the pixels to find it in again.
        return {"source": None, "low": self.low}

    @cached_property
    def low(self) -> NDArray[np.bool_]:
        """Where tissue is, on at most 2048 pixels along the longer side."""
        pixels = thinned(self.source, -(-max(self.source.shape) // LARGEST))
        return tissue_mask(pixels[0] if len(pixels) < 3 else np.moveaxis(pixels[:3], 0, -1))

    def part(self, _leading: tuple[int, ...], box: Box, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return where tissue is in a box of the slide, on a grid of `shape`."""
        to_grid = Resampling(self.low.shape, shape)
        return to_grid.nearest(self.low[slices(to_grid.nearest_box(box))], box)

    def anywhere(self, _leading: tuple[int, ...], box: Box, shape: tuple[int, ...]) -> bool:
        """Tell whether there is tissue in a box."""
        return bool(self.low[slices(Resampling(self.low.shape, shape).nearest_box(box))].any())


def thinned(source: Source, step: int, block: int = 4096) -> NDArray[Any]:
    """Return every `step`-th pixel along each axis, shape (channels, *spatial), reading block by block."""
    edge = max(block // step, 1) * step
    shape = tuple(-(-n // step) for n in source.shape)
    out = np.empty((len(source.layout.channels) or 1, *shape), source.dtype)
    for box in blocks(source.shape, (edge,) * len(shape)):
        target = tuple(slice(a // step, -(-b // step)) for a, b in box)
        out[(slice(None), *target)] = source.read((), box)[
            (slice(None), *(slice(None, None, step),) * len(box))
        ]
    return out


def find_tissue(image: Any, original: Source, convert: Callable[[Any], Any]) -> Tissue:
    """Return the tissue of an image, from its coarsest level that is fine enough.

    Raises
    ------
    InputError
        For a stack or a volume, of which no single picture shows the tissue.
    """
    if original.leading or len(original.shape) != 2:
        raise InputError(
            f"mask='tissue' is for slides of two dimensions; this image has {len(original.leading)} leading "
            f"and {len(original.shape)} spatial axes. Give a mask array, or leave it out."
        )
    spatial = [
        tuple(shape[axis] for axis in original.layout.spatial) for shape in getattr(image, "levels", ())
    ]
    level = choose_low_level(spatial, LARGEST) if spatial else 0
    if level <= getattr(image, "level", 0):
        return Tissue(original)
    return Tissue(Source.whole(convert(image.at_level(level)), original.layout))
