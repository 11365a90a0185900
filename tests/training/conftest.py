"""Samples drawn by hand."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from napari_fcnseg.training.samples import Sample, object_distance


def discs(height: int = 96, width: int = 80, seed: int = 0) -> NDArray[np.int32]:
    """Return labels of discs that do not touch, numbered with gaps."""
    random = np.random.default_rng(seed)
    y, x = np.indices((height, width))
    labels = np.zeros((height, width), np.int32)
    for number in range(12):
        cy, cx, radius = random.integers(0, height), random.integers(0, width), random.integers(5, 10)
        inside = (y - cy) ** 2 + (x - cx) ** 2 < (radius + 2) ** 2
        if not labels[inside].any():
            labels[inside & ((y - cy) ** 2 + (x - cx) ** 2 < radius**2)] = 3 * number + 5
    return labels


def sample_of(labels: NDArray[np.int32], image: NDArray[np.float32] | None = None) -> Sample:
    """Return a sample whose image is its foreground, unless given."""
    picture = (labels > 0).astype(np.float32) if image is None else image
    return Sample(
        name="drawn",
        kind="fluorescence",
        renderings=(torch.from_numpy(picture),),
        labels=torch.from_numpy(labels.astype(np.float32)),
        distance=torch.from_numpy(object_distance(labels)),
    )
