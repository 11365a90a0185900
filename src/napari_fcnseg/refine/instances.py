"""Scores to objects by a rule that is local, so that tiles and whole agree.

Seeds are face-connected components of the seed map. They grow over the
foreground by at most `reach` synchronous rounds. No rule looks at a number, so a
block with a margin of `reach` gives the same objects as the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.refine.components import gathered, label_components, nonempty
from napari_fcnseg.refine.growing import grow
from napari_fcnseg.refine.holes import fill_marked, settle_holes
from napari_fcnseg.refine.passes import Array, Facts, Passes
from napari_fcnseg.refine.stitching import Grid, relative, slices


@dataclass(frozen=True)
class ObjectRule:
    """How scores become objects.

    Attributes
    ----------
    seed_threshold : float
        Seeds are where the seed score is above it.
    foreground_threshold : float
        Objects grow where the foreground score is above it.
    reach : int
        Rounds of growth, so the farthest a pixel can be from its seed.
    fill_holes : bool
        Give background that is enclosed by one object alone to that object.
    """

    seed_threshold: float = 0.4
    foreground_threshold: float = 0.5
    reach: int = 32
    fill_holes: bool = True

    def __post_init__(self) -> None:
        for name in ("seed_threshold", "foreground_threshold"):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise InputError(f"{name} is {value!r}; it must be a finite number, such as 0.5.")
        _check_reach(self.reach)
        if self.fill_holes not in (True, False):
            raise InputError(f"fill_holes is {self.fill_holes!r}; it must be True or False.")


def _check_reach(reach: Any) -> None:
    if isinstance(reach, bool) or not isinstance(reach, Integral) or reach < 0:
        raise InputError(f"reach is {reach!r}; it must be a whole number of rounds, 0 or more.")


@dataclass(frozen=True, eq=False)
class Decoded:
    """What scores gave.

    Attributes
    ----------
    labels : array of int
        Unique labels, in no particular order and with gaps: something that is read
        by slices. See :func:`.number_objects`.
    cut_by_reach : int
        How many objects one more round of growth would have made larger.
    arrays : tuple of str
        Names of the arrays of the passes that `labels` reads.
    """

    labels: Array
    cut_by_reach: int
    arrays: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _SeedMask:
    foreground: Array
    seed_score: Array
    rule: ObjectRule

    def __call__(self, box: Box) -> NDArray[np.bool_]:
        at = slices(box)
        inside = np.asarray(self.foreground[at]) > self.rule.foreground_threshold
        return inside & (np.asarray(self.seed_score[at]) > self.rule.seed_threshold)


@dataclass(frozen=True, eq=False)
class _GrowBlock:
    seeds: Array
    foreground: Array
    score: Array
    out: Array
    rule: ObjectRule
    grid: Grid

    def __call__(self, box: Box) -> Facts:
        labels, following = self._grown(box)
        facts = nonempty(cut=np.unique(following[following > 0]))
        if self.rule.fill_holes:
            labels, holes = settle_holes(labels, box, self.grid)
            facts |= holes
        if labels.any():
            self.grid.write(self.out, box, labels)
        return facts

    def _grown(self, box: Box) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the objects of a block, and what one more round would add to them."""
        # One more than the reach: the round after the last looks that far.
        wide = self.grid.around(box, self.rule.reach + 1)
        core = slices(relative(box, wide)[self.grid.leading :])
        seeds = self.grid.read(self.seeds, wide)
        if not seeds.any():
            return seeds[core], seeds[core]
        inside = self.grid.read(self.foreground, wide) > self.rule.foreground_threshold
        labels, following = grow(seeds, inside, self.grid.read(self.score, wide), self.rule.reach)
        return labels[core], following[core]


def decode_objects(
    passes: Passes,
    foreground: Array,
    seed_score: Array,
    rule: ObjectRule,
    *,
    block_shape: Sequence[int],
    leading: int = 0,
) -> Decoded:
    """Turn score maps into objects.

    Parameters
    ----------
    passes : Passes
        Where arrays live and who works. Passes are called ``"seeds"``, ``"seeds seams"``,
        ``"objects"`` and ``"objects seams"``.
    foreground, seed_score : array of float32, same shape
        Leading axes, then space; probability of being in an object, and the score
        whose peaks are the objects. The latter also decides contested pixels.
    rule : ObjectRule
        Thresholds and reach.
    block_shape : sequence of int
        Pixels along the spatial axes that are held at a time, beside a margin. The
        objects do not depend on it.
    leading : int
        Number of leading axes; objects lie in one plane.

    Returns
    -------
    Decoded

    Examples
    --------
    >>> from napari_fcnseg.refine.passes import MemoryPasses
    >>> foreground = np.array([0.9, 0.9, 0.9, 0.2], np.float32)
    >>> peaks = np.array([0.8, 0.1, 0.7, 0.1], np.float32)
    >>> rule = ObjectRule(seed_threshold=0.5, foreground_threshold=0.5, reach=1)
    >>> decoded = decode_objects(MemoryPasses(), foreground, peaks, rule, block_shape=(2,))
    >>> decoded.labels[slice(None),].tolist(), decoded.cut_by_reach
    ([1, 1, 2, 0], 0)
    """
    grid = Grid.of(foreground.shape, block_shape, leading)
    mask = _SeedMask(foreground, seed_score, rule)
    seeds = label_components(passes, mask, grid.shape, block_shape=block_shape, leading=leading, name="seeds")
    labels = passes.array("objects", grid.shape, str(seeds.dtype))
    work = _GrowBlock(seeds, foreground, seed_score, labels, rule, grid)
    facts = passes.each("objects", grid.boxes, work)
    passes.drop("seeds")
    cut = len(np.unique(gathered(facts, "cut")))
    if rule.fill_holes:
        labels = fill_marked(passes, labels, facts, grid, name="objects seams")
    return Decoded(labels, cut, ("objects",))
