"""By how much an image is rescaled, so that its objects have the size a model was trained on."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg._shared.settings import SegmentSettings
from napari_fcnseg.models.record import ModelRecord
from napari_fcnseg.preprocess.resampling import Resampling, scaled_shape

logger = logging.getLogger(__name__)

# Rescaling by less than this changes an object's size less than objects differ anyway.
SCALE_TOLERANCE = 0.1


def _factors(settings: SegmentSettings, record: ModelRecord) -> tuple[float, ...] | None:
    """Return by how much each spatial axis must be magnified, or None."""
    if settings.diameter is not None and settings.spacing is not None:
        raise InputError("spacing and diameter were both given; either one says how large objects are.")
    if settings.diameter is not None:
        if record.diameter is None:
            raise InputError(
                f"diameter was given, but the card of {record.id} states no diameter of its objects; "
                "rescale the image instead."
            )
        return (record.diameter / settings.diameter,) * record.ndim
    return None if settings.spacing is None else _spacing_factors(settings, record)


def _spacing_factors(settings: SegmentSettings, record: ModelRecord) -> tuple[float, ...]:
    if record.pixel_size is None:
        raise InputError(
            f"spacing was given, but the card of {record.id} states no pixel size; give diameter= in pixels "
            "instead."
        )
    axes = "zyx"[-record.ndim :]
    given = settings.spacing
    sizes = [given[a] for a in axes if a in given] if isinstance(given, dict) else list(given or ())
    if len(sizes) != record.ndim:
        raise InputError(
            f"spacing={given} does not give micrometres for each of the axes {', '.join(axes)}; "
            f"write for instance {dict.fromkeys(axes, 0.5)}."
        )
    return tuple(size / record.pixel_size for size in sizes)


# Beyond it the unit is wrong, or the model has nothing to look at.
LARGEST_FACTOR = 16


def choose_factors(settings: SegmentSettings, record: ModelRecord) -> tuple[float, ...] | None:
    """Return by how much each spatial axis is to be magnified, or None where nothing says so.

    Parameters
    ----------
    settings : SegmentSettings
        Its `diameter` or `spacing`, in the order z, y, x.
    record : ModelRecord
        States the diameter and pixel size of the training images.

    Raises
    ------
    InputError
        If both are given, the card lacks what they are compared with, or the image would be
        rescaled beyond reason.
    """
    factors = _factors(settings, record)
    if factors is None or _reasonable(factors):
        return factors
    asked = f"diameter={settings.diameter}" if settings.diameter else f"spacing={settings.spacing}"
    raise InputError(
        f"{asked} would rescale the image by {', '.join(f'{f:.3g}' for f in factors)}; factors from "
        f"1/{LARGEST_FACTOR} to {LARGEST_FACTOR} are possible. A diameter is in pixels, spacing in "
        "micrometres."
    )


def _reasonable(factors: tuple[float, ...]) -> bool:
    return all(1 / LARGEST_FACTOR <= f <= LARGEST_FACTOR for f in factors)


def with_stated_spacing(settings: SegmentSettings, image: Any, record: ModelRecord) -> SegmentSettings:
    """Return the settings with the pixel size that the file of an opened image states.

    Only where neither spacing nor diameter is given and the model has a pixel
    size to compare it with. One that is not there, or cannot be meant, is said and not used.
    """
    if settings.spacing or settings.diameter or record.pixel_size is None or not hasattr(image, "spacing_um"):
        return settings
    axes = "zyx"[-record.ndim :]
    sizes = {axis: image.spacing_um(axis) for axis in axes if axis in image.axes}
    if len(sizes) < len(axes) or None in sizes.values():
        problem = image.size_problem or f"{image.name or 'the image'} states no pixel size; give spacing="
        # Photographs have none either; of slides it matters.
        level = logging.WARNING if image.size_problem else logging.INFO
        logger.log(level, "%s; until then it is taken for the model's, %g um", problem, record.pixel_size)
        return settings
    if not _reasonable(tuple(size / record.pixel_size for size in sizes.values())):
        logger.warning(
            "%s states pixels of %s um, which is not believed: the model has %g um; give spacing= if true",
            image.name or "the image", " x ".join(f"{s:.4g}" for s in sizes.values()), record.pixel_size,
        )  # fmt: skip
        return settings
    return replace(settings, spacing=sizes)


def nearest_level(shapes: Sequence[tuple[int, ...]], factors: tuple[float, ...] | None) -> int:
    """Return which resolution level needs the least rescaling; the finer of two that need the same.

    Parameters
    ----------
    shapes : sequence of tuple of int
        Spatial shapes of the levels, the finest first.
    factors : tuple of float or None
        By how much the first is to be magnified.
    """
    if factors is None:
        return 0
    left = [sum(abs(math.log(f)) for f in remaining(shapes[0], shape, factors)) for shape in shapes]
    return left.index(min(left))


def remaining(
    finest: tuple[int, ...], shape: tuple[int, ...], factors: tuple[float, ...]
) -> tuple[float, ...]:
    """Return by how much a coarser level is to be magnified."""
    return tuple(f * n / m for f, n, m in zip(factors, finest, shape, strict=True))


def choose_resampling(shape: tuple[int, ...], factors: tuple[float, ...] | None) -> Resampling | None:
    """Return how an image is brought to the model's pixel size, or None where it has it.

    Parameters
    ----------
    shape : tuple of int
        Spatial shape of the image.
    factors : tuple of float or None
        By how much each axis is to be magnified; see :func:`choose_factors`.
    """
    if factors is None:
        return None
    after = scaled_shape(shape, tuple(f if abs(f - 1) > SCALE_TOLERANCE else 1.0 for f in factors))
    if after == shape:
        return None
    logger.info("the image is rescaled from %s to %s pixels", shape, after)
    return Resampling(shape, after)
