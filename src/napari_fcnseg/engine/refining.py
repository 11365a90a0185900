"""Probabilities refined block by block, on blocks that depend on the image's shape alone.

So the result depends neither on tiles, nor on memory, nor on whether an
image is lazy. An image within one block is refined as a whole; beyond, each
block is refined with its halo, and what lies farther away is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.heads import Head
from napari_fcnseg.engine.predictor import Predictor, Wanted
from napari_fcnseg.engine.source import Source
from napari_fcnseg.preprocess.normalization import PixelTransform
from napari_fcnseg.refine.chain import Chain
from napari_fcnseg.refine.stitching import grown, overlap, relative, slices

# Pixels along each axis of a block, by number of spatial axes.
EDGE = {1: 2**18, 2: 1024, 3: 128}


def refined_blocks(shape: tuple[int, ...], box: Box) -> Iterator[Box]:
    """Iterate over the blocks of the fixed grid that a box touches."""
    edge = EDGE[len(shape)]
    sides = [
        [(start, min(start + edge, n)) for start in range(a // edge * edge, b, edge)]
        for (a, b), n in zip(box, shape, strict=True)
    ]
    yield from product(*sides)


def refined_region(shape: tuple[int, ...], box: Box, halo: int) -> Box:
    """Return which pixels the refined values of a box come from."""
    parts = [grown(block, halo, shape) for block in refined_blocks(shape, box)]
    return tuple((min(a for a, _ in side), max(b for _, b in side)) for side in zip(*parts, strict=True))


@dataclass(frozen=True)
class RefiningPredictor:
    """A predictor whose class probabilities go through a chain of refinements.

    Attributes
    ----------
    predictor : Predictor
        Gives the probabilities.
    chain : Chain
        What refines them.
    classes : int
        How many maps are class probabilities, background among them.
    stretch : bool
        Show refinements the image from percentile to percentile; see :func:`unit_range`.
    """

    predictor: Predictor
    chain: Chain
    classes: int
    stretch: bool

    def region(
        self, source: Source, leading: tuple[int, ...], box: Box, head: Head,
        ticked: Callable[[], None] | None = None,
    ) -> NDArray[Any]:  # fmt: skip
        """Return what the head makes of the refined maps of a box of the model's grid, shape (k, *box)."""
        out: NDArray[Any] = np.empty(())
        for block in refined_blocks(self.predictor.grid_shape(source), box):
            part = self._block(source, leading, block, head, ticked)
            if not out.ndim:
                out = np.empty((len(part), *(b - a for a, b in box)), part.dtype)
            common = overlap(box, block)
            out[(slice(None), *slices(relative(common, box)))] = part[
                (slice(None), *slices(relative(common, block)))
            ]
        return out

    def regions(
        self, source: Source, work: Iterable[tuple[tuple[int, ...], Box]], head: Head,
        ticked: Callable[..., None] | None = None, wanted: Wanted | None = None,
    ) -> Iterator[NDArray[Any]]:  # fmt: skip
        """Iterate over what :meth:`region` returns for each of several boxes."""
        # A refinement looks at background too, so `wanted` leaves nothing out here.
        del wanted
        for leading, box in work:
            yield self.region(source, leading, box, head, ticked)

    def _block(
        self, source: Source, leading: tuple[int, ...], block: Box, head: Head,
        ticked: Callable[[], None] | None,
    ) -> NDArray[Any]:  # fmt: skip
        wide = grown(block, self.chain.halo, self.predictor.grid_shape(source))
        maps = self.predictor.region(source, leading, wide, Head(head.maps), ticked)
        pixels = self.predictor.read(source, leading, wide)
        image = unit_range(pixels, self.predictor.transform, stretch=self.stretch)
        refined = self.chain.refine(maps[: self.classes], image, [start for start, _ in wide])
        maps = np.concatenate([refined, maps[self.classes :]])[(slice(None), *slices(relative(block, wide)))]
        return head.finish(torch.from_numpy(np.ascontiguousarray(maps))[None])[0].numpy()


def unit_range(pixels: NDArray[Any], transform: PixelTransform, *, stretch: bool) -> NDArray[np.float32]:
    """Return pixels brought to 0 to 1 by what holds for the whole image, as blocks must agree on it.

    With `stretch`, by the percentiles that were decided; else integers are
    divided by the largest value of their type, and floats stay as they are.
    """
    shape = (-1, *(1,) * (pixels.ndim - 1))
    if stretch and transform.rendering is None:
        offset, scale = (np.array(v, np.float64).reshape(shape) for v in (transform.offset, transform.scale))
        return np.clip((pixels - offset) / scale, 0, 1).astype(np.float32)
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
    return pixels.astype(np.float32) / np.float32(top)
