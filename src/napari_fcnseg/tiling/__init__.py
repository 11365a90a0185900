"""The layout of tiles: frozen numbers, NumPy only."""

from napari_fcnseg.tiling.overlap import WindowPlan, plan_windows, window_weight
from napari_fcnseg.tiling.padding import mirror_indices, read_mirrored
from napari_fcnseg.tiling.plan import Tile, TilePlan, plan_tiles

__all__ = [
    "Tile",
    "TilePlan",
    "WindowPlan",
    "mirror_indices",
    "plan_tiles",
    "plan_windows",
    "read_mirrored",
    "window_weight",
]
