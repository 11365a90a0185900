"""Choose the tiles of a run: from the halo of the model and the memory there is."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from napari_fcnseg._shared.errors import TilingError
from napari_fcnseg._shared.protocols import Box, Segmenter
from napari_fcnseg._shared.settings import parse_memory
from napari_fcnseg.networks.footprint import UNKNOWN_BYTES
from napari_fcnseg.tiling.plan import TilePlan, plan_tiles, round_up

# Beyond this the halo is a small part of the work and the caches no longer help.
LARGEST_CORE = {1: 2**18, 2: 1024, 3: 96}


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


def tile_bytes(segmenter: Segmenter, shape: tuple[int, ...], core: tuple[int, ...]) -> int:
    """Return the bytes that a model needs for one tile with what is read around it."""
    sides = [
        # A window, or a tile that covers its axis, has no halo there, only what the model loses.
        c + sum(halo if segmenter.exact_tiling and c < n else border)
        for c, n, halo, border in zip(core, shape, segmenter.halo, segmenter.border, strict=True)
    ]
    return math.prod(sides) * pixel_bytes(segmenter)


def _check_fits(needed: int, budget: int, what: str, cure: str) -> None:
    if needed > budget:
        raise TilingError(
            f"{what} of this model needs {needed / 2**20:,.1f} MiB, but memory allows "
            f"{budget / 2**20:,.1f} MiB; {cure}."
        )


def _core_that_fits(segmenter: Segmenter, shape: tuple[int, ...], budget: int) -> tuple[int, ...]:
    """Return the largest core whose tile, with its halo, stays within the budget."""
    cores = [
        min(round_up(n, s), round_up(LARGEST_CORE[segmenter.ndim], s))
        for n, s in zip(shape, segmenter.stride, strict=True)
    ]
    while (needed := tile_bytes(segmenter, shape, tuple(cores))) > budget:
        axis = max(range(len(cores)), key=lambda i: cores[i] / segmenter.stride[i])
        step = segmenter.stride[axis]
        if cores[axis] == step:
            _check_fits(needed, budget, "the smallest tile", "raise memory=, or lower batch_size=")
        cores[axis] = cores[axis] // 2 // step * step
    return tuple(cores)


def choose_tile(
    segmenter: Segmenter,
    shape: tuple[int, ...],
    *,
    tile_shape: tuple[int, ...] | None = None,
    memory: int | str | None = None,
    batch_size: int = 1,
) -> tuple[int, ...]:
    """Decide what one tile writes.

    Parameters
    ----------
    segmenter : Segmenter
        Its stride, halo and border.
    shape : tuple of int
        Spatial shape of the image.
    tile_shape : tuple of int, optional
        What was asked for; rounded up to the stride.
    memory : int or str, optional
        Bytes or such as ``"4GB"``; a quarter of what is free by default. A
        `tile_shape` that needs more than was given is refused.
    batch_size : int
        Tiles that share the memory.

    Raises
    ------
    TilingError
        If `tile_shape` has the wrong number of axes or nothing fits the memory.
    """
    if tile_shape is None:
        budget = free_memory() // 4 if memory is None else parse_memory(memory)
        return _core_that_fits(segmenter, shape, budget // batch_size)
    if len(tile_shape) != segmenter.ndim:
        raise TilingError(
            f"tile_shape={tuple(tile_shape)} has {len(tile_shape)} axes; this model looks along "
            f"{segmenter.ndim}."
        )
    core = tuple(round_up(c, s) for c, s in zip(tile_shape, segmenter.stride, strict=True))
    if segmenter.exact_tiling:  # a window is what it is, even beyond the image
        core = tuple(min(c, round_up(n, s)) for c, n, s in zip(core, shape, segmenter.stride, strict=True))
    if memory is not None:
        needed = tile_bytes(segmenter, shape, core) * batch_size
        _check_fits(needed, parse_memory(memory), f"tile_shape={core}", "lower one or raise the other")
    return core


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
