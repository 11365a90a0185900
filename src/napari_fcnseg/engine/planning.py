"""Choose the tiles of a run: from the halo of the model and the memory there is."""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from napari_fcnseg._shared.errors import TilingError
from napari_fcnseg._shared.protocols import Box, Segmenter
from napari_fcnseg._shared.settings import parse_memory
from napari_fcnseg.engine.blending import CARRIED_BYTES
from napari_fcnseg.engine.pipeline import DEPTH
from napari_fcnseg.networks.footprint import UNKNOWN_BYTES
from napari_fcnseg.tiling.overlap import WindowPlan, plan_windows
from napari_fcnseg.tiling.plan import TilePlan, plan_tiles, round_up
from napari_fcnseg.tiling.shards import SHARD, shard_boxes

# More tiles along an axis than this are not gone through one by one.
COUNTED = 4096
# Bytes of one pixel that is read, and of one that is written, where nobody says.
PIXEL, RESULT = 4, 8
# Bytes of one pixel of a block whose objects grow, its margin included.
OBJECT_PIXEL = 42


def free_memory(device: torch.device | None = None) -> int:
    """Return the bytes that can be taken on a device; 4 GiB where the system does not say.

    Parameters
    ----------
    device : torch.device, optional
        The main memory by default.
    """
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        line = next(line for line in text.splitlines() if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return 4 * 2**30


def pixel_bytes(segmenter: Segmenter) -> int:
    """Return the bytes that a model needs for each pixel that it reads."""
    return int(getattr(segmenter, "bytes_per_pixel", UNKNOWN_BYTES))


def _plan_budget(memory: int | str | None, device: torch.device | None = None) -> int:
    return free_memory(device) // 4 if memory is None else parse_memory(memory)


def cache_bytes(memory: int | str | None) -> int:
    """Return the most that decoded chunks of the image may take: an eighth of the memory of a run."""
    return _plan_budget(memory) // 8


@functools.lru_cache(maxsize=4096)
def _along_axis(
    length: int, edge: int, core: int, stride: int, halo: tuple[int, int], border: tuple[int, int]
) -> tuple[int, int, int]:
    """Return how many tiles the shards of one axis take, how much they read together, and one at most."""
    sides = [(first, min(first + edge, length)) for first in range(0, length, edge)]
    plans = [
        plan_tiles((length,), core_shape=(core,), stride=(stride,), halo=(halo,), border=(border,),
                   region=(side,))
        for side in sides
    ]  # fmt: skip
    count = sum(map(len, plans))
    if count > COUNTED:  # so few of them lie at the ends of the image that it does not show
        return count, length + count * sum(halo), core + sum(halo)
    reads = [tile.read_shape[0] for plan in plans for tile in plan]
    return count, sum(reads), max(reads)


def _tiles_along(
    segmenter: Segmenter, shape: tuple[int, ...], core: tuple[int, ...]
) -> list[tuple[int, int, int]]:
    edge = SHARD[len(shape)]
    sides = zip(shape, core, segmenter.stride, segmenter.halo, segmenter.border, strict=True)
    return [_along_axis(n, edge, *rest) for n, *rest in sides]


@dataclass(frozen=True)
class Load:
    """What a run holds beside the tiles of its model.

    Attributes
    ----------
    batch_size : int
        Tiles computed together.
    pixel, result : int
        Bytes of one pixel of the image, all channels that are read, and of the result.
    channels : int
        How many the model is shown.
    before : tuple of int, optional
        Spatial shape of the image, where it is resampled for the model.
    labels : tuple of int, optional
        Spatial shape of what is written shard by shard, where the model's grid is another.
    blended : bool
        Whether windows are blended, even if the model can be tiled exactly.
    reach : int, optional
        How far objects grow, in pixels; None where there are none.
    """

    batch_size: int = 1
    pixel: int = PIXEL
    result: int = RESULT
    channels: int = 1
    before: tuple[int, ...] | None = None
    labels: tuple[int, ...] | None = None
    blended: bool = False
    reach: int | None = None


LOAD = Load()


def read_shape(
    segmenter: Segmenter, shape: tuple[int, ...], core: tuple[int, ...], *, blended: bool = False
) -> tuple[int, ...]:
    """Return the largest shape that a tile, or a window, reads."""
    if segmenter.exact_tiling and not blended:
        return tuple(longest for _, _, longest in _tiles_along(segmenter, shape, core))
    return tuple(c + sum(lost) for c, lost in zip(core, segmenter.border, strict=True))


def run_bytes(
    segmenter: Segmenter,
    shape: tuple[int, ...],
    core: tuple[int, ...],
    load: Load = LOAD,
) -> int:
    """Return the bytes that a run takes at most, beside those of its process.

    Parameters
    ----------
    segmenter : Segmenter
        Its footprint.
    shape, core : tuple of int
        Spatial shape of the model's grid and of what a tile writes.
    load : Load
        What is held beside the tiles.
    """
    # Objects are made when all scores are there.
    objects = 0 if load.reach is None else object_block_bytes(len(shape), load.reach, shape)
    return max(_prediction_bytes(segmenter, shape, core, load), objects)


def _prediction_bytes(segmenter: Segmenter, shape: tuple[int, ...], core: tuple[int, ...], load: Load) -> int:
    sides = read_shape(segmenter, shape, core, blended=load.blended)
    read, written = math.prod(sides), math.prod(core)
    pixel = 4 * load.channels if load.before else load.pixel
    waiting = (DEPTH + 2) * pixel * read  # queued, under way, and being computed
    scores = 4 * (segmenter.in_channels * read + segmenter.out_channels * written)
    tiles = (read * pixel_bytes(segmenter) + waiting + scores) * load.batch_size
    blending = 0
    if load.blended or not segmenter.exact_tiling:
        blending = _blending_bytes(segmenter, shape, core)
    return tiles + _reading_bytes(sides, shape, load) + _result_bytes(shape, load) + blending


def _reading_bytes(sides: tuple[int, ...], shape: tuple[int, ...], load: Load) -> int:
    """Return the bytes of reading one tile: its chunks, and what resampling holds at its peak."""
    if load.before is None:
        return 2 * load.pixel * math.prod(sides)  # rounded up to whole chunks
    sizes = [min(n, _source_length(side, n, m)) for side, n, m in zip(sides, load.before, shape, strict=True)]
    pixels, most = 3 * load.pixel * math.prod(sizes), 0  # chunks and what is taken of them
    for axis, side in enumerate(sides):  # as `Resampling.apply` does: before, in its order of axes, and after
        before, sizes[axis] = math.prod(sizes), side
        most = max(most, 2 * before + math.prod(sizes))
    return pixels + 8 * load.channels * most


def _source_length(side: int, before: int, after: int) -> int:
    """Return how many pixels of an image a side of so many resampled ones comes from, at most."""
    return (
        side if before == after else math.ceil((side + 1) * before / after + 2 * max(1, before / after)) + 2
    )


def _result_bytes(shape: tuple[int, ...], load: Load) -> int:
    """Return the bytes of what waits to be written: filled, queued, written, and encoded."""
    edge = SHARD[len(shape)]
    written = math.prod(min(n, edge) for n in load.labels or shape)
    # What is reduced, or enlarged, to the pixels of a shard comes in parts; see `works.divided`.
    part = 0 if load.labels is None else 2 * 2 * min(edge ** len(shape), math.prod(shape))
    return load.result * ((DEPTH + 2) * written + part)


def _blending_bytes(segmenter: Segmenter, shape: tuple[int, ...], window: tuple[int, ...]) -> int:
    """Return the bytes of the sums of windows: of a row of regions, a column, and what is carried."""
    sides = [min(n, SHARD[len(shape)]) for n in shape]
    tall = [*sides[:-1], window[-1]]
    if len(shape) > 1:
        tall[-2] += window[-2]
    sums = math.prod(sides[:-1]) * (sides[-1] + window[-1])
    # Sums are enlarged by copying; a column is there, times its share, and its lower part for the next row.
    held = 4 * segmenter.out_channels * (2 * sums + 3 * math.prod(tall))
    # What the head makes of as much as is finished with a column.
    held += (8 * segmenter.out_channels + 8) * math.prod(sides[:-1]) * window[-1]
    if len(shape) < 2:
        return held
    columns = len(plan_windows(shape, window, segmenter.stride, segmenter.border).starts[-1])
    below = math.prod(sides[:-2]) * math.prod(window[-2:]) * columns
    return held + min(CARRIED_BYTES, 4 * segmenter.out_channels * below)


def object_block_bytes(ndim: int, reach: int, shape: tuple[int, ...] | None = None) -> int:
    """Return the bytes that one block takes while its objects grow, the largest of the passes over objects.

    Parameters
    ----------
    ndim : int
        Number of spatial axes.
    reach : int
        How far objects grow, in pixels.
    shape : tuple of int, optional
        Spatial shape of the grid, where blocks may be smaller than a shard.

    Notes
    -----
    Measured with tracemalloc on blocks of 2048 x 2048 and 256 x 256 x 256 full of
    objects: 29 to 40 bytes for each pixel with its margin, whatever the reach.
    """
    edge = SHARD[ndim] + 2 * (reach + 1)
    return OBJECT_PIXEL * math.prod(min(n, edge) for n in shape or (edge,) * ndim)


def object_threads(memory: int | str | None, ndim: int, reach: int) -> int:
    """Return how many blocks of objects fit the memory at a time: from 1 to the threads that compute.

    Parameters
    ----------
    memory : int or str or None
        Bytes or such as ``"4GB"``; a quarter of what is free by default.
    ndim, reach : int
        As for :func:`object_block_bytes`.
    """
    fitting = _plan_budget(memory) // object_block_bytes(ndim, reach)
    return max(1, min(fitting, torch.get_num_threads()))


def _check_fits(needed: int, budget: int, what: str, cure: str) -> None:
    if needed > budget:
        raise TilingError(
            f"{what} of this model needs {needed / 2**20:,.1f} MiB, but memory allows "
            f"{budget / 2**20:,.1f} MiB; {cure}."
        )


def _halved(core: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return a core whose longest side is halved, on a multiple of the stride; None if it cannot be."""
    axis = max(range(len(core)), key=lambda i: (core[i] > stride[i], core[i]))
    if core[axis] <= stride[axis]:
        return None
    return (*core[:axis], round_up(core[axis] // 2, stride[axis]), *core[axis + 1 :])


def _core_that_fits(segmenter: Segmenter, shape: tuple[int, ...], budget: int, load: Load) -> tuple[int, ...]:
    """Return a shard, or the largest part of one by halving whose run stays within the budget."""
    edge = SHARD[len(shape)]
    core = tuple(round_up(min(n, edge), s) for n, s in zip(shape, segmenter.stride, strict=True))
    while (needed := _prediction_bytes(segmenter, shape, core, load)) > budget:
        smaller = _halved(core, segmenter.stride)
        if smaller is None:
            _check_fits(needed, budget, "the smallest tile", "raise memory=, or lower batch_size=")
            return core
        core = smaller
    return core


def choose_tile(
    segmenter: Segmenter,
    shape: tuple[int, ...],
    *,
    tile_shape: tuple[int, ...] | None = None,
    memory: int | str | None = None,
    load: Load = LOAD,
) -> tuple[int, ...]:
    """Decide what one tile writes.

    Parameters
    ----------
    segmenter : Segmenter
        Its stride, halo, border and footprint; the memory is that of its device.
    shape : tuple of int
        Spatial shape of the image.
    tile_shape : tuple of int, optional
        What was asked for; rounded up to the stride. A shard, or a part of one
        by halving its sides, by default.
    memory : int or str, optional
        Bytes or such as ``"4GB"``; a quarter of what is free by default. A
        `tile_shape` that needs more than was given is refused.
    load : Load
        What shares the memory.

    Raises
    ------
    TilingError
        If `tile_shape` has the wrong number of axes or nothing fits the memory.
    """
    if memory is not None and load.reach is not None:
        needed = object_block_bytes(len(shape), load.reach, shape)
        _check_fits(needed, parse_memory(memory), "a block of the objects", "raise memory=")
    if tile_shape is None:
        budget = _plan_budget(memory, getattr(segmenter, "device", None))
        return _core_that_fits(segmenter, shape, budget, load)
    if len(tile_shape) != segmenter.ndim:
        raise TilingError(
            f"tile_shape={tuple(tile_shape)} has {len(tile_shape)} axes; this model looks along "
            f"{segmenter.ndim}."
        )
    core = tuple(round_up(c, s) for c, s in zip(tile_shape, segmenter.stride, strict=True))
    if segmenter.exact_tiling:  # a window is what it is, even beyond the image
        core = tuple(min(c, round_up(n, s)) for c, n, s in zip(core, shape, segmenter.stride, strict=True))
    if memory is not None:
        needed = _prediction_bytes(segmenter, shape, core, load)
        _check_fits(needed, parse_memory(memory), f"tile_shape={core}", "lower one or raise the other")
    return core


@dataclass(frozen=True)
class RunPlan:
    """What a run will do, known before a pixel is read.

    Attributes
    ----------
    layout : TilePlan or WindowPlan
        The tiles over one plane of the whole image, or the windows of a model
        that is blended.
    leading : tuple of int
        Lengths of the axes that are gone through one by one.
    shard : tuple of int
        What is stored and resumed as one; tiles are parts of it.
    tiles : int
        How many there are, counted as they are run: shard by shard.
    redundancy : float
        Pixels read for each pixel written.
    batch_size : int
        Tiles computed together.
    bytes : int
        What the run takes at most, beside its process.
    device, precision : str
        Where scores are computed, and how precisely.
    """

    layout: TilePlan | WindowPlan
    leading: tuple[int, ...]
    shard: tuple[int, ...]
    tiles: int
    redundancy: float
    batch_size: int
    bytes: int
    device: str
    precision: str

    def describe(self) -> str:
        """Return such as ``"1,024 tiles of 2048 x 2048, halo 96, 1.09x redundant, 3.1 GiB, cuda:0"``."""
        kind, reach = "window", ""
        core = self.layout.window if isinstance(self.layout, WindowPlan) else self.layout.core_shape
        if isinstance(self.layout, TilePlan):
            kind, reach = "tile", f", halo {max(max(pair) for pair in self.layout.halo)}"
        size = self.bytes / 2**20
        memory = f"{size / 1024:.1f} GiB" if size >= 1000 else f"{math.ceil(size)} MiB"
        return (
            f"{self.tiles:,} {kind}{'s' if self.tiles != 1 else ''} of {' x '.join(map(str, core))}{reach}, "
            f"{self.redundancy:.2f}x redundant, {memory}, {self.device}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, with the line of :meth:`describe` as ``"summary"``."""
        return {**asdict(self), "summary": self.describe()}


def plan_run(
    segmenter: Segmenter,
    shape: tuple[int, ...],
    core: tuple[int, ...],
    *,
    leading: tuple[int, ...] = (),
    load: Load = LOAD,
    device: str = "cpu",
    precision: str = "float32",
) -> RunPlan:
    """Return the plan of a run whose tile was chosen; nothing in it grows with the number of tiles.

    Parameters
    ----------
    segmenter : Segmenter
        What runs.
    shape, core : tuple of int
        Spatial shape of the image, and what one tile writes.
    leading : tuple of int
        Lengths of the axes that are gone through one by one.
    load : Load
        What shares the memory.
    device, precision : str
        As resolved.
    """
    layout: TilePlan | WindowPlan
    if segmenter.exact_tiling and not load.blended:
        layout = make_plan(segmenter, shape, core)
        axes = _tiles_along(segmenter, shape, core)
    else:
        layout = plan_windows(shape, core, segmenter.stride, segmenter.border)
        lengths = [c + sum(lost) for c, lost in zip(core, segmenter.border, strict=True)]
        axes = [(len(starts), len(starts) * n, n) for starts, n in zip(layout.starts, lengths, strict=True)]
    return RunPlan(
        layout=layout,
        leading=leading,
        shard=shard_boxes(shape).block,
        tiles=math.prod(count for count, _, _ in axes) * math.prod(leading),
        redundancy=math.prod(read / n for (_, read, _), n in zip(axes, shape, strict=True)),
        batch_size=load.batch_size,
        bytes=run_bytes(segmenter, shape, core, load),
        device=device,
        precision=precision,
    )


def make_plan(
    segmenter: Segmenter,
    shape: tuple[int, ...],
    core_shape: tuple[int, ...],
    *,
    leading: tuple[int, ...] = (),
    region: Box | None = None,
) -> TilePlan:
    """Lay out the tiles of a run: :func:`~napari_fcnseg.tiling.plan.plan_tiles` for a model."""
    return plan_tiles(
        shape, core_shape=core_shape, stride=segmenter.stride, halo=segmenter.halo, border=segmenter.border,
        leading=leading, region=region,
    )  # fmt: skip
