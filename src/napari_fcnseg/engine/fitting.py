"""Compute tiles, and divide those for which memory does not suffice."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import TilingError
from napari_fcnseg._shared.protocols import Box
from napari_fcnseg.engine.devices import is_out_of_memory
from napari_fcnseg.refine.stitching import relative, slices
from napari_fcnseg.tiling.plan import Tile, TilePlan, plan_tiles, round_up

logger = logging.getLogger(__name__)


class Fitting:
    """Computes batches of tiles of one shape; what is too large is halved, without a change to any label.

    Parameters
    ----------
    compute : callable
        Returns ``(n, k, *keep)`` of pixels ``(n, channels, *spatial)`` and the box to keep.
    plan : TilePlan
        The tiles that a divided one is divided by are of its grid.
    """

    def __init__(self, compute: Callable[[NDArray[Any], Box], torch.Tensor], plan: TilePlan) -> None:
        self.compute, self.plan = compute, plan
        self.too_many = math.inf  # pixels that did not fit before

    def __call__(self, tiles: Sequence[Tile], pixels: NDArray[Any]) -> torch.Tensor:
        """Return what is computed of tiles and the pixels that they read."""
        if len(pixels) * math.prod(pixels.shape[2:]) < self.too_many:
            found = self._tried(pixels, tiles[0].keep)
            if found is not None:
                return found
        if len(tiles) == 1:
            return self._divided(tiles[0], pixels)
        half = len(tiles) // 2
        return torch.cat([self(tiles[:half], pixels[:half]), self(tiles[half:], pixels[half:])])

    def _tried(self, pixels: NDArray[Any], keep: Box) -> torch.Tensor | None:
        try:
            return self.compute(pixels, keep)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Only now, when the error and the maps that it holds on to are gone, is there memory again.
        self.too_many = len(pixels) * math.prod(pixels.shape[2:])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning(
            "memory does not suffice for %d x %s pixels at a time; going on with half as many, which changes "
            "no label",
            len(pixels),
            " x ".join(map(str, pixels.shape[2:])),
        )
        return None

    def _divided(self, tile: Tile, pixels: NDArray[Any]) -> torch.Tensor:
        out = None
        for part in self._parts(tile):
            there: Any = (..., *slices(relative(part.read, tile.read)))
            found = self([part], pixels[there])
            if out is None:
                out = found.new_empty((*found.shape[:2], *(b - a for a, b in tile.core)))
            here: Any = (..., *slices(relative(part.core, tile.core)))
            out[here] = found
        assert out is not None  # a tile has at least one part
        return out

    def _parts(self, tile: Tile) -> TilePlan:
        """Return the tiles of half the size that cover a tile."""
        plan = self.plan
        core = [round_up(b - a, step) for (a, b), step in zip(tile.core, plan.stride, strict=True)]
        axis = max(range(len(core)), key=lambda i: core[i] / plan.stride[i])
        if core[axis] == plan.stride[axis]:
            raise TilingError(
                f"memory does not suffice even for a tile of {' x '.join(map(str, core))} pixels "
                "and its halo; "
                "close other programs, or give a smaller model."
            )
        core[axis] = round_up(core[axis] // 2, plan.stride[axis])
        return plan_tiles(
            plan.shape, core_shape=core, stride=plan.stride, halo=plan.halo, border=plan.border,
            region=tile.core,
        )  # fmt: skip
