"""From the arguments of a verb to what is to be done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from napari_fcnseg._shared.errors import InputError, nearest_name
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.engine import lazy
from napari_fcnseg.engine.job import Job, make_job, pixels_of
from napari_fcnseg.models.model import Model
from napari_fcnseg.models.registry import is_path, load_model
from napari_fcnseg.preprocess.normalization import Normalization
from napari_fcnseg.refine.chain import chain_data

Convert = Callable[[Any], Any]


def settings_of(model: Any, loaded: Model, options: dict[str, Any]) -> SegmentSettings:
    """Return the settings of a call; refuse what is no option."""
    if not loaded.copyable:
        named = f"{loaded.record.id} (in memory)"  # no model can have that name
    elif isinstance(model, Model):
        named = loaded.record.id
    else:
        # A path is made absolute, so that the record finds the model from any folder.
        named = str(Path(model).expanduser().absolute()) if is_path(model) else str(model)
    normalization = options.get("normalization")
    if isinstance(normalization, Normalization):
        options = {**options, "normalization": asdict(normalization)}
    known = [f.name for f in fields(SegmentSettings)]
    for option in options:
        if option not in known:
            raise InputError(
                f"{option!r} is no option of segment.{nearest_name(option, known)} Options are: "
                f"{', '.join(known)}."
            )
    options = {**options, "refine": chain_data(options.get("refine"))}
    return SegmentSettings(model=named, **options)


def image_array(image: Any) -> Any:
    """Return a lazy image as it is, anything else as NumPy."""
    if isinstance(image, str | Path):
        raise InputError(
            f"segment takes an array, not a path; open the file first: open_image({str(image)!r})."
        )
    if isinstance(image, np.ma.MaskedArray):
        raise InputError("a masked array says where it does not count; give image.data and mask=~image.mask.")
    return image if lazy.is_lazy(image) else np.asarray(image)


def mask_array(mask: Any, *, as_lazy: bool) -> Any:
    """Return a mask as a dask array if it is to stay lazy, else as NumPy; tissue is found later."""
    if mask is None or isinstance(mask, str):
        return None
    return lazy.as_dask(mask) if as_lazy and lazy.is_lazy(mask) else np.asarray(mask)


def job_of(
    image: Any, model: Any, mask: Any, options: dict[str, Any], convert: Convert = lazy.as_dask
) -> tuple[Any, Job]:
    """Return the image, as NumPy unless it is lazy, and what is to be done with it.

    `convert` returns the array that is read of a lazy image.
    """
    loaded = load_model(model)
    image, is_lazy = image_array(image), lazy.is_lazy(image)
    if isinstance(mask, str):
        options = {**options, "mask": mask}
    job = make_job(
        image, loaded, settings_of(model, loaded, options), mask_array(mask, as_lazy=is_lazy),
        convert if is_lazy else pixels_of, options.get("refine"),
    )  # fmt: skip
    return image, job
