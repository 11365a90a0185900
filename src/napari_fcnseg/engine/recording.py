"""State what a run did, with nothing left at "auto"."""

from __future__ import annotations

import datetime as dt
import functools
import math
import platform
import weakref
from dataclasses import asdict, replace
from importlib import metadata
from typing import Any

import torch

from napari_fcnseg._shared.errors import ModelError
from napari_fcnseg._shared.record import RunRecord
from napari_fcnseg._shared.settings import TISSUE, SegmentSettings, blocks_sha256
from napari_fcnseg.engine.chunk_cache import chunk_shape, read_box
from napari_fcnseg.engine.job import Job, is_opened
from napari_fcnseg.engine.sampling import reading_block
from napari_fcnseg.io.zarr_pixels import missing_chunks
from napari_fcnseg.models.registry import load_model
from napari_fcnseg.preprocess.normalization import PixelTransform
from napari_fcnseg.refine.stitching import blocks

PACKAGES = (
    "napari-fcnseg", "torch", "numpy", "scipy", "scikit-image", "dask", "zarr", "tifffile", "imagecodecs",
    "safetensors",
)  # fmt: skip


# The mask of each job is read once: it can be as large as the image.
_hashes: weakref.WeakKeyDictionary[Job, str] = weakref.WeakKeyDictionary()


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that had a part in a run."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def image_facts(image: Any, job: Job) -> dict[str, Any]:
    """Return what is known of an image."""
    facts: dict[str, Any] = {
        "shape": [int(length) for length in job.labelled.array.shape],
        "dtype": str(job.source.dtype),
        "axes": job.source.layout.axes,
    }
    # Of arrays, `name` and `path` mean other things than of an opened file.
    for name in ("name", "path", "scale", "units", "level") if is_opened(image) else ():
        value = getattr(image, name)
        if value is not None:
            facts[name] = value if isinstance(value, int | dict) else str(value)
    return facts


def mask_hash(job: Job) -> str | None:
    """Return the hash of the mask as booleans, with its axes in the order of the image's.

    It is :func:`~napari_fcnseg._shared.settings.array_sha256` of it, but read block by block, once for a job.
    """
    if job.mask is None:
        return None
    if job not in _hashes:
        layout = job.source.layout
        made = layout.leading + layout.spatial
        mask = job.mask.transpose([made.index(axis) for axis in layout.output_order()])
        parts = blocks(mask.shape, _rows(mask))
        _hashes[job] = blocks_sha256(tuple(mask.shape), bool, (read_box(mask, box) for box in parts))
    return _hashes[job]


def _rows(mask: Any, limit: int = 2**24) -> tuple[int, ...]:
    """Return a block of a mask that follows the one before it in C order, and ends where chunks do."""
    shape, chunks = [int(n) for n in mask.shape], chunk_shape(mask)
    block = list(reading_block(shape, [1] * len(shape), limit))
    axis = next((axis for axis, size in enumerate(block) if size > 1), len(block) - 1)
    block[axis] = min(-(-block[axis] // chunks[axis]) * chunks[axis], shape[axis])
    return tuple(block)


def resolved_settings(job: Job, transform: PixelTransform) -> SegmentSettings:
    """Return the settings that repeat a run to the pixel on any machine."""
    layout, settings = job.source.layout, job.settings
    normalization = asdict(job.normalization)
    if transform.rendering is None:
        del normalization["colour"]  # nothing was decided about colour
    else:
        normalization["colour"] = transform.rendering.name
    named = job.model.copyable and settings.model == job.record.name
    return replace(
        settings,
        model=job.record.id if named else settings.model,
        axes=layout.axes,
        channel_axis=None,
        channel=layout.channels or None,
        normalization=normalization,
        threshold=job.rule.foreground_threshold if job.kind == "instances" else settings.threshold,
        min_size=job.min_size if job.kind == "instances" else None,
        tile_shape=job.tile_shape,
        memory=None,
        mask=TISSUE if job.tissue else mask_hash(job),
        label_dtype=job.label_dtype.name,
    )


def _can_be_named(job: Job) -> bool:
    """Tell whether `load_model` finds this very model by what the settings call it."""
    try:
        return load_model(job.settings.model).record.sha256 == job.record.sha256
    except ModelError:
        return False


def _notes(image: Any, job: Job, transform: PixelTransform, cut_by_reach: int) -> tuple[str, ...]:
    notes = []
    if not job.model.copyable:
        notes.append("the model is an object in memory: save it to be able to repeat this run")
    elif not _can_be_named(job):
        notes.append("the model was handed over as an object: give its folder to be able to repeat this run")
    if job.blend is not None:
        why = job.segmenter.inexact_reason or f"blend={job.blend!r} was asked for"
        notes.append(f"tiles are blended, not exact: {why}")
    if job.original is not None:
        notes.append(f"pixels were read from a coarser level, {' x '.join(map(str, job.source.shape))}")
    if job.settings.tta is not None:
        notes.append(f"scores are the mean over {job.settings.tta} of the image (test-time augmentation)")
    if job.settings.link_z is not None:
        notes.append(f"objects of consecutive slices were joined from an overlap of {job.settings.link_z:g}")
    if missing := missing_chunks(getattr(image, "pixels", None)):
        notes.append(f"{missing:,} chunks of the image are missing and were read as its fill value")
    if job.resampling is not None:
        before, after = (" x ".join(map(str, s)) for s in (job.source.shape, job.grid))
        notes.append(f"the image was rescaled from {before} to {after} pixels, the labels back")
    if job.tissue is not None:
        notes.append("only tissue was segmented (mask='tissue')")
    if cut_by_reach:
        found = f"{cut_by_reach:,} object{'s' if cut_by_reach > 1 else ''}"
        notes.append(f"{found} would have grown beyond the model's reach of {job.rule.reach} pixels")
    if job.kind == "instances" and math.prod(job.source.leading) > 1 and job.settings.link_z is None:
        notes.append(f"objects were found in each of {math.prod(job.source.leading)} planes by itself")
    if transform.rendering is not None:
        notes.append(f"colours were turned into {transform.rendering.name}")
    return tuple(notes)


def make_record(
    image: Any,
    job: Job,
    transform: PixelTransform,
    *,
    started: dt.datetime,
    seconds: float,
    objects: int | None,
    cut_by_reach: int = 0,
) -> RunRecord:
    """Return the record of a run that has ended.

    Parameters
    ----------
    image : array
        As the user gave it.
    job : Job
        What was run.
    transform : PixelTransform
        The normalisation that was decided.
    started : datetime
        When, with its offset from UTC.
    seconds : float
        How long it took.
    objects : int or None
        How many were found.
    cut_by_reach : int
        How many of them would have grown further.
    """
    record = job.record
    return RunRecord(
        settings=resolved_settings(job, transform),
        image=image_facts(image, job),
        model={"id": record.id, "name": record.name, "version": record.version, "sha256": record.sha256,
               "title": record.title, "licence": record.licence, "citation": record.citation,
               "objects": asdict(job.rule) if job.kind == "instances" else None},
        transform=transform.to_dict(),
        plan=job.plan.to_dict(),
        device=str(job.settings.device),
        threads=torch.get_num_threads(),
        versions=versions(),
        started=started.isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        objects=objects,
        notes=_notes(image, job, transform, cut_by_reach),
    )  # fmt: skip
