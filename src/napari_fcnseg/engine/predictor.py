"""Read a tile, normalise it, run the model, hand over what the head makes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box, Segmenter
from napari_fcnseg.engine.blending import blended_regions
from napari_fcnseg.engine.devices import fetched, to_device
from napari_fcnseg.engine.fitting import Fitting
from napari_fcnseg.engine.heads import Head
from napari_fcnseg.engine.pipeline import read_ahead
from napari_fcnseg.engine.planning import make_plan
from napari_fcnseg.engine.source import Source
from napari_fcnseg.preprocess.normalization import PixelTransform
from napari_fcnseg.preprocess.resampling import Resampling
from napari_fcnseg.preprocess.stains import DARKEST
from napari_fcnseg.refine.stitching import relative, slices
from napari_fcnseg.tiling.padding import read_mirrored
from napari_fcnseg.tiling.plan import Tile, TilePlan

Leading = tuple[int, ...]
Wanted = Callable[[Leading, Box], bool]
"""Tells of an index along the leading axes and a box of the grid whether anything in it counts."""


@dataclass(eq=False)
class Region:
    """A box of the model's grid of which some tiles may be finished.

    Attributes
    ----------
    leading : tuple of int
        Index along the leading axes.
    box : Box
        Where it lies.
    left : int
        How many of its tiles are not finished.
    values : ndarray or None, shape (k, *box)
        What was made of those that are; None before the first.
    """

    leading: Leading
    box: Box
    left: int
    values: NDArray[Any] | None = None

    def place(self, core: Box, found: NDArray[Any] | None, like: tuple[int, np.dtype[Any]]) -> None:
        """Put what was made of a tile where it belongs; None leaves zeros."""
        if self.values is None:
            self.values = np.zeros((like[0], *(b - a for a, b in self.box)), like[1])
        if found is not None:
            self.values[(slice(None), *slices(relative(core, self.box)))] = found
        self.left -= 1


@dataclass(frozen=True, eq=False)
class Part:
    """A tile of a region, and whether it has to be computed."""

    region: Region
    tile: Tile
    wanted: bool


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
    blend : str or None
        The weight of windows that are blended, ``"constant"`` or ``"gaussian"``;
        None blends only what cannot be tiled exactly.
    """

    segmenter: Segmenter
    transform: PixelTransform
    tile_shape: tuple[int, ...]
    resampling: Resampling | None = None
    batch_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    blend: str | None = None

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
        values = to_device(pixels, self.device, torch.float64 if wide else torch.float32)
        values = _rendered(values, self.transform)
        offset, low = _two_parts(self.transform.offset, values)
        # In place: each copy of a tile would be a pass over memory.
        values.sub_(offset).sub_(low).div_(_per_channel(self.transform.scale, values))
        return values.float().to(self.device)

    def region(
        self,
        source: Source,
        leading: Leading,
        box: Box,
        head: Head,
        ticked: Callable[[], None] | None = None,
    ) -> NDArray[Any]:
        """Return what the head makes of one box; see :meth:`regions`."""
        (found,) = self.regions(source, [(leading, box)], head, ticked)
        return found

    def regions(
        self,
        source: Source,
        work: Iterable[tuple[Leading, Box]],
        head: Head,
        ticked: Callable[[], None] | None = None,
        wanted: Wanted | None = None,
    ) -> Iterator[NDArray[Any]]:
        """Iterate over what the head makes of boxes of the model's grid.

        The tiles of all boxes go through one pipeline: while one is computed,
        the next are read, also those of the next box.

        Parameters
        ----------
        source : Source
            The image.
        work : iterable of (tuple of int, Box)
            Index along the leading axes, and box.
        head : Head
            What is made of the scores.
        ticked : callable, optional
            Called after each tile; what it raises ends the run.
        wanted : callable, optional
            Tells of a leading index and the box of a tile whether it is needed;
            the others are neither read nor computed, and come out as zeros.

        Yields
        ------
        ndarray, shape (k, *box)
            In the order of `work`.
        """
        if self.blend is not None or not self.segmenter.exact_tiling:
            yield from blended_regions(self, source, work, head, ticked, wanted)
            return
        like = self._like(head)
        batches = _batches(self._parts(source, work, wanted), self.batch_size)
        with closing(self._computed(source, batches, head)) as results:
            for part, found in results:
                region = part.region
                region.place(part.tile.core, found, like)
                if ticked:
                    ticked()
                if not region.left:
                    assert region.values is not None  # a tile was placed
                    yield region.values

    def _like(self, head: Head) -> tuple[int, np.dtype[Any]]:
        """Return the number of maps that a head gives, and their type."""
        made = head(torch.zeros((1, self.segmenter.out_channels, *(1,) * self.segmenter.ndim)))
        return made.shape[1], made.numpy().dtype

    def _parts(
        self, source: Source, work: Iterable[tuple[Leading, Box]], wanted: Wanted | None
    ) -> Iterator[Part]:
        for leading, box in work:
            plan = self.plan(source, box)
            region = Region(leading, box, len(plan))
            for tile in plan:
                yield Part(region, tile, wanted is None or wanted(leading, tile.core))

    def _computed(
        self, source: Source, batches: Iterator[list[Part]], head: Head
    ) -> Generator[tuple[Part, NDArray[Any] | None], None, None]:
        """Iterate over tiles with what was made of them, None of those that are not wanted."""

        def read(batch: list[Part]) -> NDArray[Any] | None:
            if not batch[0].wanted:
                return None
            return _stacked([self.read(source, part.region.leading, part.tile.read) for part in batch])

        compute = Fitting(lambda pixels, keep: self._made(pixels, keep, head), self.plan(source))
        # A card computes a batch while the one before is placed; a CPU would only hold two.
        behind = 1 if self.device.type == "cuda" else 0
        waiting: deque[tuple[list[Part], Callable[[], NDArray[Any] | None]]] = deque()
        with closing(read_ahead(batches, read)) as reads:
            for batch, pixels in reads:
                tiles = [part.tile for part in batch]
                waiting.append((batch, _nothing if pixels is None else fetched(compute(tiles, pixels))))
                del pixels  # it must not live while the next batch is computed
                if len(waiting) > behind:
                    yield from _each(*waiting.popleft())
            while waiting:
                yield from _each(*waiting.popleft())

    def _made(self, pixels: NDArray[Any], keep: Box, head: Head) -> torch.Tensor:
        return head(self.segmenter.predict(self.normalised(pixels), keep))


def _nothing() -> None:
    """Return what is made of tiles that are not wanted."""


def _each(
    batch: list[Part], fetch: Callable[[], NDArray[Any] | None]
) -> Iterator[tuple[Part, NDArray[Any] | None]]:
    found = fetch()
    yield from ((part, None if found is None else found[i]) for i, part in enumerate(batch))


def _stacked(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0][None] if len(parts) == 1 else np.stack(parts)


def neutral(transform: PixelTransform) -> tuple[float, ...]:
    """Return the pixel that the network sees as 0 or unstained: a number per channel, or one for all."""
    rule = transform.rendering
    if rule is None:
        return transform.offset
    if rule.space == "optical_density":
        return (rule.white,)
    return (transform.offset[0] / sum(rule.weights),)


def _batches(parts: Iterable[Part], size: int) -> Iterator[list[Part]]:
    """Group consecutive tiles of one shape, at most `size` together."""
    for _, group in groupby(parts, key=lambda part: (part.wanted, part.tile.read_shape, part.tile.keep)):
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
