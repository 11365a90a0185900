"""The layout of tiles: frozen numbers, NumPy only."""

from napari_fcnseg.tiling.overlap import gaussian_weight, window_starts, windows
from napari_fcnseg.tiling.padding import mirror_indices, read_mirrored
from napari_fcnseg.tiling.plan import Tile, TilePlan, plan_tiles

__all__ = [
    "Tile",
    "TilePlan",
    "gaussian_weight",
    "mirror_indices",
    "plan_tiles",
    "read_mirrored",
    "window_starts",
    "windows",
]
