"""Forests by name, from the plain data of a card and the arrays beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_fcnseg._shared.errors import InputError
from napari_fcnseg.classical.random_forest import RandomForestSegmenter
from napari_fcnseg.classical.texton_forest import TextonForestSegmenter

Forest = RandomForestSegmenter | TextonForestSegmenter

FORESTS: dict[str, type[RandomForestSegmenter] | type[TextonForestSegmenter]] = {
    kind.name: kind for kind in (RandomForestSegmenter, TextonForestSegmenter)
}
"""Class of every forest by the name that its card has."""


def forest_from_config(config: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Forest:
    """Rebuild a forest from its ``config`` and ``arrays()``.

    Parameters
    ----------
    config : dict
        With the keys network, in_channels, classes, ndim and options.
    arrays : dict of ndarray
        What was learned.

    Returns
    -------
    RandomForestSegmenter or TextonForestSegmenter

    Raises
    ------
    InputError
        If something is missing, unknown or does not fit.
    """
    wanted = {"network", "in_channels", "classes", "ndim", "options"}
    if set(config) != wanted or config["network"] not in FORESTS:
        raise InputError(
            f"a forest's config has the keys {sorted(wanted)} and one of the names {sorted(FORESTS)}, "
            f"but this one is {config}."
        )
    try:
        forest = FORESTS[config["network"]].rebuilt(config, arrays)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"the forest is damaged: {error!r}") from error
    if forest.config != config or not np.array_equal(arrays.get("sizes", ()), forest.sizes):
        raise InputError(f"the forest is not the one of which the card says {config}.")
    return forest
