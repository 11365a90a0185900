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
from napari_fcnseg.engine.pipeline import DEPTH
from napari_fcnseg.networks.footprint import UNKNOWN_BYTES
from napari_fcnseg.tiling.overlap import WindowPlan, plan_windows
from napari_fcnseg.tiling.plan import TilePlan, plan_tiles, round_up
from napari_fcnseg.tiling.shards import SHARD, shard_boxes

# More tiles along an axis than this are not gone through one by one.
COUNTED = 4096
# Bytes of one pixel that is read, and of one that is written, where nobody says.
PIXEL, RESULT = 4, 8


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


def read_shape(segmenter: Segmenter, shape: tuple[int, ...], core: tuple[int, ...]) -> tuple[int, ...]:
    """Return the largest shape that a tile, or a window, reads."""
    if segmenter.exact_tiling:
        return tuple(longest for _, _, longest in _tiles_along(segmenter, shape, core))
    return tuple(c + sum(lost) for c, lost in zip(core, segmenter.border, strict=True))


def tile_bytes(segmenter: Segmenter, shape: tuple[int, ...], core: tuple[int, ...]) -> int:
    """Return the bytes that a model needs for one tile with what is read around it."""
    return math.prod(read_shape(segmenter, shape, core)) * pixel_bytes(segmenter)


def run_bytes(
    segmenter: Segmenter,
    shape: tuple[int, ...],
    core: tuple[int, ...],
    *,
    batch_size: int = 1,
    pixel: int = PIXEL,
    result: int = RESULT,
) -> int:
    """Return the bytes that a run takes at most, beside those of its process.

    Parameters
    ----------
    segmenter : Segmenter
        Its footprint.
    shape, core : tuple of int
        Spatial shape of the image and of what a tile writes.
    batch_size : int
        Tiles computed together.
    pixel, result : int
        Bytes of one pixel of the image, all channels that are read, and of the result.
    """
    read, written = math.prod(read_shape(segmenter, shape, core)), math.prod(core)
    waiting = (DEPTH + 2) * pixel * read * batch_size  # queued, under way, and being computed
    scores = 4 * (segmenter.in_channels * read + segmenter.out_channels * written) * batch_size
    chunks = 2 * pixel * read  # that is read, rounded up to whole chunks
    shard = math.prod(min(n, SHARD[len(shape)]) for n in shape)
    results = (DEPTH + 2) * result * shard  # being filled, queued, written, and encoded
    return tile_bytes(segmenter, shape, core) * batch_size + waiting + scores + chunks + results


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


def _core_that_fits(
    segmenter: Segmenter, shape: tuple[int, ...], budget: int, **load: int
) -> tuple[int, ...]:
    """Return a shard, or the largest part of one by halving whose run stays within the budget."""
    edge = SHARD[len(shape)]
    core = tuple(round_up(min(n, edge), s) for n, s in zip(shape, segmenter.stride, strict=True))
    while (needed := run_bytes(segmenter, shape, core, **load)) > budget:
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
    batch_size: int = 1,
    pixel: int = PIXEL,
    result: int = RESULT,
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
    batch_size : int
        Tiles that share the memory.
    pixel, result : int
        Bytes of one pixel of the image, all channels that are read, and of the result.

    Raises
    ------
    TilingError
        If `tile_shape` has the wrong number of axes or nothing fits the memory.
    """
    load = {"batch_size": batch_size, "pixel": pixel, "result": result}
    if tile_shape is None:
        budget = _plan_budget(memory, getattr(segmenter, "device", None))
        return _core_that_fits(segmenter, shape, budget, **load)
    if len(tile_shape) != segmenter.ndim:
        raise TilingError(
            f"tile_shape={tuple(tile_shape)} has {len(tile_shape)} axes; this model looks along "
            f"{segmenter.ndim}."
        )
    core = tuple(round_up(c, s) for c, s in zip(tile_shape, segmenter.stride, strict=True))
    if segmenter.exact_tiling:  # a window is what it is, even beyond the image
        core = tuple(min(c, round_up(n, s)) for c, n, s in zip(core, shape, segmenter.stride, strict=True))
    if memory is not None:
        needed = run_bytes(segmenter, shape, core, **load)
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
    batch_size: int = 1,
    pixel: int = PIXEL,
    result: int = RESULT,
    device: str = "cpu",
    precision: str = "float32",
    blend: str | None = None,
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
    batch_size, pixel, result
        As for :func:`choose_tile`.
    device, precision, blend : str
        As resolved.
    """
    layout: TilePlan | WindowPlan
    if blend is None and segmenter.exact_tiling:
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
        batch_size=batch_size,
        bytes=run_bytes(segmenter, shape, core, batch_size=batch_size, pixel=pixel, result=result),
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
