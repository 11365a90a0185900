"""The header of a journal: all that must be the same for a stopped run to go on."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from napari_fcnseg._shared.errors import ResumeError
from napari_fcnseg._shared.record import plain
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine.devices import has_bfloat16
from napari_fcnseg.engine.job import Job
from napari_fcnseg.engine.recording import mask_hash, versions
from napari_fcnseg.engine.target import Target
from napari_fcnseg.models.model import Model

# What may differ between a run and the one that goes on with it: the first run's plan is kept.
NOT_COMPARED = ("memory", "tile_shape", "batch_size")


def make_header(
    job: Job, settings: SegmentSettings, levels: Sequence[Sequence[int]], target: Target, sample: str
) -> dict[str, Any]:
    """Return the header of a run.

    Parameters
    ----------
    job : Job
        What is run.
    settings : SegmentSettings
        As the user gave them.
    levels : sequence of shapes
        Of the labels.
    target : Target
        Where they go.
    sample : str
        SHA-256 of the pixels that the normalisation is taken from.
    """
    image = job.labelled
    header = {
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "settings": asked_for(job, settings),
        "model": model_facts(job),
        "image": {
            "shape": list(image.array.shape), "dtype": str(image.dtype), "axes": image.layout.axes,
            "sample": sample, "mask": mask_hash(job),
        },
        "grid": {"read": job.source.shape, "model": job.grid},
        "output": {"version": target.version, "levels": levels, "dtype": job.label_dtype.name},
        "resolved": {
            "device": job.settings.device, "precision": job.settings.precision, "tile_shape": job.tile_shape,
            "batch_size": job.settings.batch_size, "threads": torch.get_num_threads(),
        },
        "machine": machine(str(job.settings.device)),
        "versions": versions(),
    }  # fmt: skip
    return plain(header)  # type: ignore[no-any-return]


def asked_for(job: Job, settings: SegmentSettings) -> dict[str, Any]:
    """Return the settings that must be the same."""
    # A window that is blended changes the result, which a tile does not.
    free = NOT_COMPARED if job.blend is None else tuple(n for n in NOT_COMPARED if n != "tile_shape")
    return {name: value for name, value in settings.to_dict().items() if name not in free}


def model_facts(job: Job) -> dict[str, Any]:
    """Return what the pixels depend on of a model and its card."""
    record = job.record
    return {
        "id": record.id,
        "sha256": record.sha256 or weights_sha256(job.model),
        "rule": asdict(job.rule),
        "normalization": asdict(job.normalization),
        "classes": [(c.value, c.name) for c in record.classes],
        "min_size": job.min_size,
        "functions": [object_id(step.run) for step in job.chain.steps if step.own],
    }


def weights_sha256(model: Model) -> str:
    """Return a hash of the weights of a model in memory; of what has none, what no other process has."""
    if model.network is None:
        return object_id(model.segmenter)
    digest = hashlib.sha256(str(model.network).encode())
    for name, values in sorted(model.network.state_dict().items()):
        digest.update(f"{name}{values.dtype}{tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@functools.cache
def _of_this_process() -> str:
    return uuid.uuid4().hex[:12]


def object_id(thing: Any) -> str:
    """Return a name for an object that cannot be compared with one of another process."""
    return f"{type(thing).__name__} in memory, {_of_this_process()}-{id(thing):x}"


def machine(device: str) -> dict[str, Any]:
    """Return what the bits of a result depend on of a processor, or of a card."""
    if device.startswith("cuda"):
        return {"card": torch.cuda.get_device_name(device)}
    return {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": has_bfloat16(torch.device("cpu")),
    }


def refuse_changes(before: dict[str, Any], now: dict[str, Any], target: Target) -> None:
    """Refuse to go on with a run that began otherwise, and say what differs.

    Raises
    ------
    ResumeError
        With each difference.
    """
    old, new = _flat(before), _flat(now)
    changed = [k for k in sorted(old.keys() | new.keys()) if k != "started" and old.get(k) != new.get(k)]
    if not changed:
        return
    told = "; ".join(f"{k} was {_short(old.get(k))}, now {_short(new.get(k))}" for k in changed)
    raise ResumeError(
        f"{target.partial} was begun otherwise: {told}. Repeat the call that began it, or start anew with "
        "resume=False (--no-resume)."
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:18]}...{text[-10:]}"


def _flat(data: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {path: data}
    return {k: v for key, part in data.items() for k, v in _flat(part, f"{path}.{key}".strip(".")).items()}
