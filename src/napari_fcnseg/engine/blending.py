"""Blend overlapping windows of a model that cannot be tiled exactly, region after region.

Regions come in C order, and every window is computed once along a row of them::

    row of regions   |     region 1     |     region 2     |  ...
    windows          [----)  [----)  [----)  [----)
                                     ^ reaches into both: its sums stay until region 2 is finished

Windows are summed in one order only, however an image is divided, so that the
sums are equal to the last bit: those that begin at one place along the last
axis, a column, from the first to the last; then the columns, each multiplied by
its share, from the first to the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_fcnseg._shared.protocols import Box, Segmenter
from napari_fcnseg.engine.heads import Head
from napari_fcnseg.engine.pipeline import read_ahead
from napari_fcnseg.refine.stitching import relative, slices
from napari_fcnseg.tiling.overlap import WindowPlan, plan_windows

if TYPE_CHECKING:
    from napari_fcnseg.engine.predictor import Predictor, Wanted
    from napari_fcnseg.engine.source import Source

Corner = tuple[int, ...]
Row = list[tuple[tuple[int, ...], Box]]

# Sums that wait for the next row of regions; beyond this their windows are computed again.
CARRIED_BYTES = 2**27


def window_plan(segmenter: Segmenter, shape: tuple[int, ...], window: tuple[int, ...]) -> WindowPlan:
    """Lay the windows of a run: :func:`~napari_fcnseg.tiling.overlap.plan_windows` for a model."""
    return plan_windows(shape, window, segmenter.stride, segmenter.border)


def blending_notice(segmenter: Segmenter, plan: WindowPlan) -> str:
    """Return what blending costs, in words: to be said once in a run."""
    why = segmenter.inexact_reason or "blend= was asked for"
    return (
        f"windows are blended ({why}): the result is near that of the whole image, not equal to it; "
        f"{plan.describe()}"
    )


def blended_regions(
    predictor: Predictor,
    source: Source,
    work: Iterable[tuple[tuple[int, ...], Box]],
    head: Head,
    ticked: Callable[[], None] | None = None,
    wanted: Wanted | None = None,
    *,
    carried_bytes: int = CARRIED_BYTES,
) -> Iterator[NDArray[Any]]:
    """Iterate over what the head makes of the blended scores of regions.

    Parameters
    ----------
    predictor : Predictor
        Its `tile_shape` is the window: never one that depends on free memory.
        Its `blend` is the weight, Gaussian by default.
    source : Source
        The image.
    work : iterable of (tuple of int, Box)
        Index along the leading axes, and box of the model's grid. In C order
        they share windows; a row of them is taken ahead. The scores of a region
        do not depend on which others there are, nor on their order.
    head : Head
        What is made of the scores.
    ticked : callable, optional
        Called once for each window of each region; what it raises ends the run.
    wanted : callable, optional
        Tells of a leading index and a box whether anything in it counts. A
        window without is skipped; what comes out where nothing counts means nothing.
    carried_bytes : int
        How much may wait for the next row of regions, beside sums as high as a
        region and as wide as four windows. The scores do not depend on it.

    Yields
    ------
    ndarray, shape (k, *box)
    """
    blender = _Blender(predictor, source, ticked, wanted)
    above: dict[int, _Column] = {}
    for regions, following in pairwise(chain(_rows(work), [None])):
        assert regions is not None
        leading, box = regions[0]
        row = _Row(blender, leading, box[:-1], above, blender.below(regions, following, carried_bytes))
        for _, box in regions:
            row.drop(box[-1][0])
            with closing(row.finished(box)) as finished:
                made = _joined((head(sums[None])[0] for sums in finished), box)
            yield made
        above = row.below


def _rows(work: Iterable[tuple[tuple[int, ...], Box]]) -> Iterator[Row]:
    """Group regions that follow each other along the last axis and agree in all else."""
    row: Row = []
    for leading, box in work:
        if row and ((leading, box[:-1]) != (row[-1][0], row[-1][1][:-1]) or box[-1][0] < row[-1][1][-1][0]):
            yield row
            row = []
        row.append((leading, box))
    if row:
        yield row


def _joined(parts: Iterator[torch.Tensor], box: Box) -> NDArray[Any]:
    """Return the parts of a box, which lie next to each other along the last axis."""
    out: NDArray[Any] = np.empty(())
    first = 0
    for part in parts:
        if not out.ndim:
            dtype = part.cpu().numpy().dtype
            out = np.empty((len(part), *(b - a for a, b in box)), dtype)
        out[..., first : first + part.shape[-1]] = part.cpu().numpy()
        first += part.shape[-1]
    return out


@dataclass(frozen=True)
class _Column:
    """Sums of a column of windows that wait for the next row of regions, from where that begins.

    Attributes
    ----------
    last : int
        Where the last window begins that is part of them.
    sums : torch.Tensor, shape (maps, *sides, window)
    """

    last: int
    sums: torch.Tensor


class _Blender:
    """What all rows of regions share: the windows, their shares and their scores."""

    def __init__(
        self, predictor: Predictor, source: Source, ticked: Callable[[], None] | None, wanted: Wanted | None
    ) -> None:
        self.predictor, self.source = predictor, source
        self.ticked, self.wanted = ticked or (lambda: None), wanted
        self.plan = window_plan(predictor.segmenter, predictor.grid_shape(source), predictor.tile_shape)
        # The last batch is filled up: one of another size would be rounded otherwise.
        self.batch_size = min(predictor.batch_size, len(self.plan))
        self._shares: dict[tuple[int, int], torch.Tensor] = {}

    def below(self, row: Row, following: Row | None, limit: int) -> int | None:
        """Return where the next row of regions begins, if what it shares with this one fits the limit."""
        if following is None or len(row[0][1]) < 2:
            return None
        (leading, first), (_, last), (other, below) = row[0], row[-1], following[0]
        follows = all(a <= b for a, b in zip(first[-2], below[-2], strict=True))
        if (leading, first[:-2]) != (other, below[:-2]) or not follows:
            return None
        columns = self.plan.touching(-1, (first[-1][0], last[-1][1]))
        height = max(self.bottom(first[-2]) - below[-2][0], 0)
        pixels = math.prod(b - a for a, b in first[:-2]) * height * self.plan.window[-1] * len(columns)
        return below[-2][0] if 4 * self.predictor.segmenter.out_channels * pixels <= limit else None

    def bottom(self, side: tuple[int, int]) -> int:
        """Return where the windows of a row of regions end, within the image."""
        last = self.plan.touching(-2, side)[-1]
        return max(min(last + self.plan.window[-2], self.plan.shape[-2]), side[1])

    def zeros(self, box: Box, width: int) -> torch.Tensor:
        """Return empty sums of a box and so many pixels along the last axis."""
        sizes = (self.predictor.segmenter.out_channels, *(b - a for a, b in box), width)
        return torch.zeros(sizes, device=self.predictor.device)

    def counts(self, leading: tuple[int, ...], corner: Corner) -> bool:
        """Tell whether anything in a window counts."""
        sides = zip(self.plan.box(corner), self.plan.shape, strict=True)
        return self.wanted is None or self.wanted(leading, tuple((a, min(b, n)) for (a, b), n in sides))

    def share(self, axis: int, start: int) -> torch.Tensor:
        """Return the share of a window in its pixels, along one axis."""
        if (axis, start) not in self._shares:
            share = self.plan.shares(axis, start, self.predictor.blend or "gaussian")
            self._shares[axis, start] = torch.from_numpy(share).to(self.predictor.device)
        return self._shares[axis, start]

    def scores(
        self, leading: tuple[int, ...], corners: Sequence[Corner]
    ) -> Generator[torch.Tensor, None, None]:
        """Iterate over the scores ``(maps, *window)`` of the windows that begin at corners."""
        keep = tuple((0, size) for size in self.plan.window)
        size = self.batch_size
        batches = (corners[i : i + size] for i in range(0, len(corners), size))
        with closing(read_ahead(batches, partial(self._read, leading))) as reads:
            for batch, pixels in reads:
                scores = self.predictor.segmenter.predict(self.predictor.normalised(pixels), keep)
                yield from scores[: len(batch)].to(self.predictor.device)

    def _read(self, leading: tuple[int, ...], corners: Sequence[Corner]) -> NDArray[Any]:
        """Return the pixels of a batch of windows, the last repeated until it is full."""
        boxes = [self.plan.read(self.plan.box(corner)) for corner in corners]
        pixels = [self.predictor.read(self.source, leading, box) for box in boxes]
        return np.stack(pixels + pixels[-1:] * (self.batch_size - len(pixels)))


class _Row:
    """Regions of one leading index, next to each other along the last axis.

    Parameters
    ----------
    blender : _Blender
        What computes windows.
    leading : tuple of int
        Index along the leading axes.
    sides : Box
        Of all regions, along every axis but the last.
    above : dict of int to _Column
        What windows of the row above left for this one, by where they begin.
    following : int or None
        Where the row below begins, if as much is to be left for it.
    """

    def __init__(
        self,
        blender: _Blender,
        leading: tuple[int, ...],
        sides: Box,
        above: dict[int, _Column],
        following: int | None,
    ) -> None:
        self.blender, self.leading, self.sides, self.above = blender, leading, sides, above
        self.following, self.below = following, dict[int, _Column]()
        # Columns are summed over this box, down to the end of their windows if the row below wants that.
        self.box = sides if following is None else (*sides[:-1], (sides[-1][0], blender.bottom(sides[-1])))
        # Sums begin at pixel `first`, and the last column in them at `last`.
        self.first, self.last = 0, -1
        self.sums = blender.zeros(sides, 0)

    def drop(self, first: int) -> None:
        """Drop the sums before a pixel."""
        self.sums, self.first = self.sums[..., max(first - self.first, 0) :], first

    def finished(self, region: Box) -> Generator[torch.Tensor, None, None]:
        """Iterate over the blended scores of the next region, in parts ``(maps, *sides, width)``."""
        plan, (first, stop) = self.blender.plan, region[-1]
        columns = plan.touching(-1, (first, stop))
        corners = {x: self._corners(x) for x in columns if x > self.last}
        todo = [corner for part in corners.values() for corner in part]
        for _ in range(plan.count(region) - len(todo)):
            self.blender.ticked()
        with closing(self.blender.scores(self.leading, todo)) as scores:
            for x in (*columns, stop):
                if x > first:  # no later column reaches what lies before it
                    yield self.sums[..., first - self.first : x - self.first]
                    first = x
                if x in corners:
                    self._add(x, self._column(x, zip(corners[x], scores, strict=False)))

    def _corners(self, x: int) -> list[Corner]:
        """Return which windows of a column are to be computed, in the order of summing."""
        starts = [self.blender.plan.touching(axis, side) for axis, side in enumerate(self.sides)]
        if x in self.above:
            starts[-1] = [y for y in starts[-1] if y > self.above[x].last]
        # The axis of the rows comes first, so that what the row above summed is the beginning of each sum.
        corners = ((*reversed(corner), x) for corner in product(*reversed(starts)))
        return [corner for corner in corners if self.blender.counts(self.leading, corner)]

    def _column(self, x: int, windows: Iterable[tuple[Corner, torch.Tensor]]) -> torch.Tensor:
        """Return the sums of a column of windows, and keep what reaches into the row below."""
        sums = self.blender.zeros(self.box, self.blender.plan.window[-1])
        if x in self.above:
            left = self.above.pop(x).sums[..., : sums.shape[-2], :]
            sums[..., : left.shape[-2], :] = left
        for corner, found in windows:
            self._add_window(sums, corner, found)
            self.blender.ticked()
        if self.following is None:
            return sums
        top, bottom = self.sides[-1]
        last = self.blender.plan.touching(-2, (top, bottom))[-1]
        self.below[x] = _Column(last, sums[..., self.following - top :, :].clone())
        return sums[..., : bottom - top, :]

    def _add_window(self, sums: torch.Tensor, corner: Corner, found: torch.Tensor) -> None:
        """Add the part of a window that lies in the box, by its shares along every axis but the last."""
        window = self.blender.plan.box(corner)[:-1]
        inside = tuple((max(a, r), min(b, s)) for (a, b), (r, s) in zip(window, self.box, strict=True))
        here = slices(relative(inside, window))
        share = torch.ones((), device=sums.device)
        for axis, part in enumerate(here):
            share = share[..., None] * self.blender.share(axis, corner[axis])[part]
        sums[:, *slices(relative(inside, self.box))] += found[:, *here] * share[..., None]

    def _add(self, x: int, column: torch.Tensor) -> None:
        """Add the column that begins at x, by its share along the last axis."""
        share = self.blender.share(len(self.sides), x)
        missing = x + len(share) - self.first - self.sums.shape[-1]
        if missing > 0:
            self.sums = torch.cat([self.sums, self.blender.zeros(self.sides, missing)], -1)
        here, there = slice(max(self.first - x, 0), None), slice(max(x - self.first, 0), None)
        self.sums[..., there][..., : len(share[here])] += column[..., here] * share[here]
        self.last = x
