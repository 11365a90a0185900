"""Read a tile, normalise it, run the model, hand over what the head makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box, Segmenter
from napari_fcnseg.engine.blending import blended_scores
from napari_fcnseg.engine.heads import Head
from napari_fcnseg.engine.planning import make_plan
from napari_fcnseg.engine.source import Source
from napari_fcnseg.preprocess.normalization import PixelTransform
from napari_fcnseg.preprocess.resampling import Resampling
from napari_fcnseg.preprocess.stains import DARKEST
from napari_fcnseg.tiling.padding import read_mirrored
from napari_fcnseg.tiling.plan import Tile, TilePlan


@dataclass(frozen=True)
class Predictor:
    """A model with everything that was decided for one image.

    Attributes
    ----------
    segmenter : Segmenter
        On its device.
    transform : PixelTransform
        How pixels are normalised.
    tile_shape : tuple of int
        What one tile writes; for a model that cannot be tiled exactly, its window.
    resampling : Resampling or None
        To the model's pixel size, if it differs; boxes are in that grid then.
    batch_size : int
        Tiles computed together.
    device : torch.device
        Where pixels are normalised.
    """

    segmenter: Segmenter
    transform: PixelTransform
    tile_shape: tuple[int, ...]
    resampling: Resampling | None = None
    batch_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def grid_shape(self, source: Source) -> tuple[int, ...]:
        """Return the spatial shape of the grid that the model sees."""
        return self.resampling.after if self.resampling else source.shape

    def plan(self, source: Source, region: Box | None = None) -> TilePlan:
        """Lay tiles over one plane of the image, or a region of it, in the model's grid."""
        return make_plan(self.segmenter, self.grid_shape(source), self.tile_shape, region=region)

    def read(self, source: Source, leading: tuple[int, ...], box: Box) -> NDArray[Any]:
        """Return pixels of a box of the model's grid, mirrored beyond it, shape (channels, *box)."""
        fill = neutral(self.transform)

        def inside(part: Box) -> NDArray[Any]:
            if self.resampling is None:
                return source.read(leading, part, fill)
            return self.resampling.apply(source.read(leading, self.resampling.source_box(part), fill), part)

        return read_mirrored(inside, box, self.grid_shape(source))

    def normalised(self, pixels: NDArray[Any]) -> torch.Tensor:
        """Return what the network sees, float32, on the device; pixels are (n, channels, *spatial)."""
        # Wide types lose low digits in float32 before the offset is gone.
        wide = pixels.dtype.itemsize > 2 and pixels.dtype != np.float32
        values = torch.from_numpy(np.array(pixels, np.float64 if wide else np.float32))
        values = _rendered(values if wide else values.to(self.device), self.transform)
        offset, low = _two_parts(self.transform.offset, values)
        scale = _per_channel(self.transform.scale, values)
        return ((values - offset - low) / scale).float().to(self.device)

    def region(
        self,
        source: Source,
        leading: tuple[int, ...],
        box: Box,
        head: Head,
        ticked: Callable[[], None] | None = None,
    ) -> NDArray[Any]:
        """Return what the head makes of a box of the model's grid, shape (k, *box).

        `ticked` is called after each tile; what it raises ends the run.
        """
        if not self.segmenter.exact_tiling:
            return self._blended(source, leading, box, head, ticked)
        out: NDArray[Any] = np.empty(())
        for tile, result in self._tiles(source, leading, self.plan(source, box), head):
            if not out.ndim:
                out = np.empty((len(result), *(b - a for a, b in box)), result.dtype)
            at = tuple(slice(a - o, b - o) for (a, b), (o, _) in zip(tile.core, box, strict=True))
            out[(slice(None), *at)] = result
            if ticked:
                ticked()
        return out

    def _tiles(
        self, source: Source, leading: tuple[int, ...], plan: TilePlan, head: Head
    ) -> Iterator[tuple[Tile, NDArray[Any]]]:
        for batch in _batches(plan, self.batch_size):
            scores = self._scores(source, leading, [tile.read for tile in batch], batch[0].keep)
            yield from zip(batch, head(scores).cpu().numpy(), strict=True)

    def _scores(self, source: Source, leading: tuple[int, ...], boxes: list[Box], keep: Box) -> torch.Tensor:
        pixels = np.stack([self.read(source, leading, box) for box in boxes])
        return self.segmenter.predict(self.normalised(pixels), keep)

    def _blended(
        self,
        source: Source,
        leading: tuple[int, ...],
        box: Box,
        head: Head,
        ticked: Callable[[], None] | None,
    ) -> NDArray[Any]:
        keep = tuple((0, size) for size in self.tile_shape)

        def scores(windows: list[Box]) -> torch.Tensor:
            wide = [self._with_border(window) for window in windows]
            found = self._scores(source, leading, wide, keep)
            for _ in windows:
                if ticked:
                    ticked()
            return found

        shape = self.grid_shape(source)
        blended = blended_scores(scores, shape, self.tile_shape, box, self.batch_size)
        return head(blended[None])[0].cpu().numpy()

    def _with_border(self, window: Box) -> Box:
        """Return a window with what the model loses around it."""
        lost = self.segmenter.border
        return tuple((a - before, b + after) for (a, b), (before, after) in zip(window, lost, strict=True))


def neutral(transform: PixelTransform) -> tuple[float, ...]:
    """Return the pixel that the network sees as 0 or unstained: a number per channel, or one for all."""
    rule = transform.rendering
    if rule is None:
        return transform.offset
    if rule.space == "optical_density":
        return (rule.white,)
    return (transform.offset[0] / sum(rule.weights),)


def _batches(tiles: Iterable[Tile], size: int) -> Iterator[list[Tile]]:
    """Group consecutive tiles of one shape, at most `size` together."""
    for _, group in groupby(tiles, key=lambda tile: (tile.read_shape, tile.keep)):
        while batch := list(islice(group, size)):
            yield batch


def _per_channel(numbers: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
    shape = (1, -1, *(1,) * (like.ndim - 2))
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).reshape(shape)


def _two_parts(numbers: tuple[float, ...], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return numbers rounded to the type of `like`, and what the rounding lost.

    Subtracting both, one after the other, is exact where one float32 would be
    off by as much as the contrast of a bright image.
    """
    high = _per_channel(numbers, like)
    rest = [n - float(h) for n, h in zip(numbers, high.flatten(), strict=True)]
    return high, _per_channel(tuple(rest), like)


def _rendered(values: torch.Tensor, transform: PixelTransform) -> torch.Tensor:
    """Make one channel of several on the device; the counterpart of `preprocess.stains.render`."""
    rule = transform.rendering
    if rule is None:
        return values
    weights = torch.tensor(rule.weights, dtype=values.dtype, device=values.device)
    if rule.space == "optical_density":
        density = -torch.log(torch.clamp(values / rule.white, min=DARKEST))
        return torch.einsum("c,nc...->n...", weights, density).clamp_min(0)[:, None]
    return torch.einsum("c,nc...->n...", weights, values)[:, None]
