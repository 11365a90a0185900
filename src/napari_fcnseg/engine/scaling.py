"""By how much an image is rescaled, so that its objects have the size a model was trained on."""

from __future__ import annotations

import logging

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


def choose_resampling(
    shape: tuple[int, ...], settings: SegmentSettings, record: ModelRecord
) -> Resampling | None:
    """Return how an image is brought to the model's pixel size, or None where it has it.

    Parameters
    ----------
    shape : tuple of int
        Spatial shape of the image.
    settings : SegmentSettings
        Its `diameter` or `spacing`, in the order z, y, x.
    record : ModelRecord
        States the diameter and pixel size of the training images.

    Raises
    ------
    InputError
        If both are given, or the card lacks what they are compared with.
    """
    factors = _factors(settings, record)
    if factors is None:
        return None
    if not all(1 / LARGEST_FACTOR <= f <= LARGEST_FACTOR for f in factors):
        asked = f"diameter={settings.diameter}" if settings.diameter else f"spacing={settings.spacing}"
        raise InputError(
            f"{asked} would rescale the image by {', '.join(f'{f:.3g}' for f in factors)}; factors from "
            f"1/{LARGEST_FACTOR} to {LARGEST_FACTOR} are possible. A diameter is in pixels, spacing in "
            "micrometres."
        )
    after = scaled_shape(shape, tuple(f if abs(f - 1) > SCALE_TOLERANCE else 1.0 for f in factors))
    if after == shape:
        return None
    logger.info("the image is rescaled from %s to %s pixels", shape, after)
    return Resampling(shape, after)
